"""A graph of six trainings in a whole run: what reruns when a key changes, and what a model of another version is."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import mini
import pytest
import torch
import yaml

from ssld_pipeline import training
from ssld_pipeline.config.load import load_config
from ssld_pipeline.errors import UserError
from ssld_pipeline.export.model import export_from
from ssld_pipeline.models.weights import read_tensors
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.runner.local_engine import LocalEngine
from ssld_pipeline.runner.plan import plan_run
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.store.workspace import Workspace

pytestmark = pytest.mark.slow

RECIPE = {"steps": 3, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0, "image_size": 32, "validations": 0}
NODES: dict[str, dict[str, Any]] = {
    "first": {},
    "tuned": {"init": "first", "data": "labeled"},
    "small": {"student": {"model": "timm:test_resnet"}, "teacher": "tuned"},
    "pair": {"teacher": "tuned", "together": "small", "lr": 0.1},
    "hard": {"data": "labeled", "loss": "ce"},
    "last": {"init": "pair", "teacher": "stored", "teacher_batch_norm": "eval", "image_size": 32},
}
AFTER = {
    "first": {"first", "tuned", "small", "pair", "last"},
    "tuned": {"tuned", "small", "pair", "last"},
    "small": {"small"},
    "pair": {"pair", "last"},
    "hard": {"hard"},
    "last": {"last"},
}
CHANGES: dict[str, Any] = {
    "steps": 4,
    "batch_size": 4,
    "norm_batch": 4,
    "lr": 0.2,
    "momentum": 0.5,
    "weight_decay": 0.1,
    "weight_decay_norm": False,
    "image_size": 40,
    "trainable": "classifier",
    "seed": 5,
    "objective": [{"term": "hard_ce", "weight": 2.0}, {"term": "kl", "temperature": 3.0}],
}
WITHOUT_EFFECT: dict[str, Any] = {"epochs": 7, "validations": 3, "max_reject_share": 0.5, "together": None}


def write(folder: Path, nodes: dict[str, dict[str, Any]], **changes: Any) -> Path:
    own = {k: v for k, v in mini.settings().items() if k not in ("train", "finetune", "baseline")}
    trainings = {name: {**RECIPE, **node} for name, node in nodes.items()}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**own, "label": {"num_kept": 3, "views": 1}, "trainings": trainings, **changes}))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which all six are trained."""
    folder = tmp_path_factory.mktemp("graph")
    mini.write_world(folder, num_tars=1)
    reports = mini.bring(load_config(write(folder, NODES)))
    assert {name for name in NODES if reports[name].ran == 1} == set(NODES)
    return folder


def planned(folder: Path, nodes: dict[str, dict[str, Any]], **changes: Any) -> set[str]:
    """The stages that would do something."""
    config = load_config(write(folder, nodes, **changes))
    return {made.stage for made in plan_run(survey(config)) if made.changes}


def changed(name: str, key: str, value: Any) -> dict[str, dict[str, Any]]:
    nodes = copy.deepcopy(NODES)
    nodes[name] = {**nodes[name], key: value}
    return nodes


def test_an_unchanged_graph_has_nothing_to_do(world: Path) -> None:
    assert planned(world, NODES) == set()


@pytest.mark.parametrize("name", NODES)
def test_a_changed_key_reruns_its_training_and_what_hangs_on_it(world: Path, name: str) -> None:
    for key, value in CHANGES.items():
        nodes = changed(name, key, value)
        if name == "hard" and key == "objective":
            nodes[name] = {**{k: v for k, v in nodes[name].items() if k != "loss"}, "teacher": None}
            nodes[name]["objective"] = [{"term": "hard_ce", "rows": "labeled"}]
        if key in ("batch_size", "norm_batch", "image_size", "seed", "steps") and name in ("small", "pair"):
            nodes["pair"] = {**nodes["pair"], "together": None}
        if key == "image_size" and name == "last":
            nodes[name]["mismatched_views"] = "accept"
        measured = name in ("first", "tuned") and key in ("batch_size", "norm_batch")  # as the teacher teaches now
        assert planned(world, nodes) == AFTER[name] | {"evaluate"} | ({"check_teacher"} if measured else set()), key


@pytest.mark.parametrize("name", NODES)
def test_a_key_without_effect_on_the_weights_reruns_nothing(world: Path, name: str) -> None:
    for key, value in WITHOUT_EFFECT.items():
        assert planned(world, changed(name, key, value)) == set(), key
    assert planned(world, changed(name, "crop_pct", 0.9)) == {"evaluate"}


def test_an_export_has_the_crop_of_the_config(world: Path, tmp_path: Path) -> None:
    config = load_config(write(world, changed("tuned", "crop_pct", 0.9)))
    list(export_from(config, "tuned", tmp_path / "out", None))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]["crop_pct"] == 0.9


def test_another_training_and_one_fewer_concern_no_other(world: Path) -> None:
    assert planned(world, {**NODES, "more": {"teacher": "small"}}) == {"more", "evaluate"}
    without = {name: node for name, node in NODES.items() if name != "hard"}
    assert planned(world, without) == {"evaluate"}


def test_the_weights_of_the_teacher_that_mines_concern_all_but_labels_only(world: Path) -> None:
    teacher = {**mini.settings()["teacher"], "crop_pct": 0.9}
    assert set(NODES) - planned(world, NODES, teacher=teacher) == {"hard"}


def test_what_is_planned_is_what_runs(world: Path, tmp_path: Path) -> None:
    folder = mini.copy_world(world, tmp_path / "copy")
    config = load_config(write(folder, changed("tuned", "lr", 0.3)))
    reports = mini.bring(config)
    assert {name for name in NODES if reports[name].ran} == AFTER["tuned"]
    assert not any(report.ran for name, report in mini.bring(config).items()), "all is up to date now"


def test_a_model_that_comes_out_the_same_reruns_nothing_that_hangs_on_it(world: Path, tmp_path: Path) -> None:
    """A lost model is trained again; its metrics tell other times, its weights are the same."""
    folder = mini.copy_world(world, tmp_path / "copy")
    config = load_config(write(folder, NODES))
    (folder / "workspace" / "models" / "first" / "student.safetensors").unlink()
    reports = mini.bring(config)
    assert {name for name in NODES if reports[name].ran} == {"first"}


def test_trainings_of_one_pass_are_what_each_is_alone(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mini.copy_world(world, tmp_path / "copy")
    both = {name: {**NODES[name], "momentum": 0.5} for name in ("small", "pair")}
    passes: list[list[str]] = []
    plain = LocalEngine.fit

    def spied(self: LocalEngine, trainings: Any, *rest: Any) -> Any:
        passes.append([training.spec.stage for training in trainings])
        return plain(self, trainings, *rest)

    monkeypatch.setattr(LocalEngine, "fit", spied)
    reports = mini.bring(load_config(write(folder, {**NODES, **both})), until="small")
    assert passes == [["pair", "small"]] and reports["pair"].ran == reports["small"].ran == 1
    together = {name: weights(folder, name) for name in both}
    for name in both:
        alone = mini.copy_world(world, tmp_path / name)
        mini.bring(load_config(write(alone, {**NODES, **both})), only=[name])
        assert {k for k, v in weights(alone, name).items() if not torch.equal(v, together[name][k])} == set()


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "workspace" / "models" / name / "student.safetensors")


def test_only_a_new_model_is_measured(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mini.copy_world(world, tmp_path / "copy")
    sql = "SELECT model, top1, top5 FROM evaluations ORDER BY model"
    before = rows_of(Workspace(str(folder / "workspace")), sql)
    measured: list[str] = []
    plain = training.evaluate.evaluate
    monkeypatch.setattr(
        training.evaluate, "evaluate", lambda p, *rest: measured.append(p.spec.weights) or plain(p, *rest)
    )
    config = load_config(write(folder, {**NODES, "more": {"teacher": "small"}}))
    mini.bring(config)
    assert [Path(weights).parts[-3] for weights in measured] == ["more"]
    after = rows_of(Workspace(config.workspace), sql)
    assert [row for row in after if row["model"] != "more"] == before and len(after) == len(before) + 1
    mini.bring(load_config(write(folder, NODES)))
    assert rows_of(Workspace(config.workspace), sql) == before, "a model that is gone has no accuracy"


def test_models_that_are_there_are_measured_and_stale_ones_are_not(world: Path, tmp_path: Path) -> None:
    folder = mini.copy_world(world, tmp_path / "copy")
    shutil.rmtree(folder / "workspace" / "models" / "hard")
    config = load_config(write(folder, NODES))
    assert mini.bring(config, only=["evaluate"])["evaluate"].ran == 1
    sql = "SELECT DISTINCT model FROM evaluations"
    assert {row["model"] for row in rows_of(Workspace(config.workspace), sql)} == {"teacher", *NODES} - {"hard"}
    with pytest.raises(UserError, match="evaluate depends on tuned, which is out of date"):
        mini.bring(load_config(write(folder, changed("tuned", "lr", 0.5))), only=["evaluate"])


def test_only_trains_one_and_until_trains_what_it_needs(world: Path, tmp_path: Path) -> None:
    folder = mini.copy_world(world, tmp_path / "copy")
    config = load_config(
        write(folder, {**NODES, "pair": {**NODES["pair"], "lr": 0.3}, "small": {**NODES["small"], "lr": 0.3}})
    )
    reports = mini.bring(config, only=["pair"])
    assert reports["pair"].ran == 1 and "small" not in reports
    reports = mini.bring(config, until="small")
    assert reports["small"].ran == 1 and "last" not in reports


def test_no_member_of_a_pass_starts_from_a_model_that_is_out_of_date(world: Path, tmp_path: Path) -> None:
    folder = mini.copy_world(world, tmp_path / "copy")
    nodes = {
        **{name: NODES[name] for name in ("first", "tuned")},
        "start": {"teacher": None, "data": "labeled"},
        "one": {"teacher": "tuned"},
        "two": {"teacher": "tuned", "together": "one", "init": "start"},
    }
    config = load_config(write(folder, nodes))
    mini.bring(config, until="start")
    stale = load_config(write(folder, {**nodes, "start": {**nodes["start"], "lr": 0.2}}))
    with pytest.raises(UserError, match="two depends on start, which is out of date"):
        mini.bring(stale, only=["one", "two"])
    assert not (folder / "workspace" / "models" / "two").exists(), "and nothing was trained before that was said"


def test_room_is_asked_for_every_training(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may need another number of processes."""
    asked: list[str] = []

    def ask(self: LocalEngine, spec: Any) -> None:
        asked.append(spec.stage)
        if len(asked) == 2:
            raise UserError("no room")

    monkeypatch.setattr(LocalEngine, "require_resources", ask)
    folder = mini.copy_world(world, tmp_path / "copy")
    nodes = {**NODES, "first": {**NODES["first"], "lr": 0.3}, "hard": {**NODES["hard"], "lr": 0.3}}
    with pytest.raises(UserError, match="no room"):
        mini.bring(load_config(write(folder, nodes)), only=["first", "hard"])
    assert sorted(asked) == ["first", "hard"]


def test_another_objective_is_no_change_of_the_default(world: Path) -> None:
    plans = plan_run(survey(load_config(write(world, {**NODES, "hard": {"data": "labeled"}}))))
    told = {made.stage: " ".join(reason for unit in made.units for reason in unit.reasons) for made in plans}
    assert "hard_ce" in told["hard"] and "the default objective" not in told["hard"]
