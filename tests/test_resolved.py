"""``plan --resolved``: every setting with where it comes from, as a config that means the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mini
import yaml
from typer.testing import CliRunner

from ssld_pipeline.cli import app
from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.presets import preset_names
from ssld_pipeline.config.resolved import as_yaml, resolved_settings


def origins(path: Path, *overrides: str) -> dict[str, tuple[Any, str]]:
    return {".".join(s.key): (s.value, s.origin) for s in resolved_settings(path, overrides)}


def test_each_value_says_where_it_comes_from(tmp_path: Path) -> None:
    trainings = {"one": {"preset": "mobilenetv2/stage1", "lr": 0.5, "student": {"model_args": {"drop_rate": 0.1}}}}
    found = origins(mini.write_config(tmp_path, trainings=trainings), "label.num_kept=3", "trainings.one.seed=4")
    assert found["trainings.one.lr"] == (0.5, "config")
    assert found["trainings.one.norm_batch"] == (384, "preset mobilenetv2/stage1")
    assert found["trainings.one.student.model"] == ("timm:mobilenetv2_100", "preset mobilenetv2/stage1")
    assert found["trainings.one.student.std"][1] == found["trainings.one.teacher"][1] == "default"
    assert found["trainings.one.objective"] == ([{"term": "symmetric_kl"}], "preset mobilenetv2/stage1")
    assert found["trainings.one.seed"] == (4, "--set") and found["label.num_kept"] == (3, "--set")
    assert found["finetune.batch_size"] == (8, "train") and found["finetune.lr"] == (0.01, "config")
    assert found["finetune.init"] == ("train", "default of finetune")
    assert found["baseline.objective"] == ([{"term": "hard_ce", "rows": "all"}], "default of baseline")
    assert found["select.top_p"][1] == "default"
    assert found["workspace"] == (str(tmp_path / "workspace"), "config")


def test_the_resolved_config_is_a_config_that_means_the_same(tmp_path: Path) -> None:
    path = mini.write_config(tmp_path, trainings={"one": {"preset": "resnet50_vd/stage2", "init": "w.safetensors"}})
    again = tmp_path / "again.yaml"
    again.write_text(as_yaml(resolved_settings(path)))
    first, second = load_config(path), load_config(again)
    assert {name: node.of_fingerprint() for name, node in first.nodes.items()} == {
        name: node.of_fingerprint() for name, node in second.nodes.items()
    }
    assert (first.inputs, first.teacher, first.select) == (second.inputs, second.teacher, second.select)


def test_the_verbs_need_no_images(tmp_path: Path) -> None:
    path = mini.write_config(tmp_path)
    told = CliRunner().invoke(app, ["plan", str(path), "--resolved"])
    assert told.exit_code == 0 and yaml.safe_load(told.output)["train"]["batch_size"] == 8
    listed = CliRunner().invoke(app, ["presets", "--json"]).output
    assert [entry["preset"] for entry in yaml.safe_load(listed)] == preset_names()
