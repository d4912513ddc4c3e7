from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mini
import numpy as np
import pytest
import torch
import trial
from torch import Tensor, nn

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import EVALUATIONS
from ssld_pipeline.errors import UserError
from ssld_pipeline.models.build import build
from ssld_pipeline.models.predict import Predictor
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.stages import evaluate as stage
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.training.data import read_rows
from ssld_pipeline.training.evaluate import evaluate, rank_of_label

SPEC = ModelSpec("timm:test_resnet", 3, mean=(0.0,) * 3, std=(1.0,) * 3)


class BrightestChannel(nn.Module):
    """Right about every image of `trial`: the disc's channel is the brightest in the middle."""

    def forward(self, views: Tensor) -> Tensor:
        return views[:, :, 10:20, 10:20].mean(dim=(2, 3)) * 20


class Constant(nn.Module):
    def forward(self, views: Tensor) -> Tensor:
        return torch.zeros(len(views), 3)


def predictor(model: nn.Module) -> Predictor:
    return Predictor(SPEC, model, "cpu", False, batch_size=4)


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return trial.write_images(tmp_path / "images", 5)


def table(tmp_path: Path, rows: list[dict[str, Any]]) -> Any:
    return read_rows([trial.write_table(tmp_path / "v.parquet", rows, "protected")], ["protected"], labelled=True)


def test_images_are_counted_exactly_and_bad_ones_not_at_all(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    Path(rows[0]["uri"]).unlink()
    for row in rows[1:5]:
        row["class_id"] = (row["class_id"] + 1) % 3
    found = evaluate(predictor(BrightestChannel()), table(tmp_path, rows), 32, 0.9, num_threads=2)
    assert (found["num_images"], found["top1"], found["top5"]) == (14, 10 / 14, 1.0)
    assert [r.image_id for r in found["rejects"]] == ["images/000.png"]


class SlightlyRight(nn.Module):
    """The brightest channel's logit is ahead by less than bfloat16 can tell."""

    def forward(self, views: Tensor) -> Tensor:
        votes = nn.functional.one_hot(BrightestChannel()(views).argmax(dim=1), 3) * 1e-3 + 1.0
        return votes @ torch.eye(3)  # which autocast rounds


def test_a_lead_that_bfloat16_rounds_away_counts(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    rounded = Predictor(SPEC, SlightlyRight(), "cpu", True, batch_size=4)
    assert len(np.unique(rounded.probs(np.zeros((1, 32, 32, 3), np.uint8)))) == 1
    assert evaluate(rounded, table(tmp_path, rows), 32, 0.9, num_threads=1)["top1"] == 1


def test_a_network_that_says_nothing_is_right_about_nothing(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert evaluate(predictor(Constant()), table(tmp_path, rows), 32, 0.9, num_threads=1)["top1"] == 0


def test_no_images_are_no_division_by_zero(tmp_path: Path) -> None:
    found = evaluate(predictor(Constant()), table(tmp_path, []), 32, 0.9, num_threads=1)
    assert (found["num_images"], found["top1"], found["top5"]) == (0, 0.0, 0.0)


def test_the_rank_of_a_label_is_its_place_in_the_sorted_probabilities() -> None:
    rng = np.random.default_rng(0)
    probs, labels = rng.random((200, 17)), rng.integers(0, 17, 200)
    places = [list(np.argsort(-row)).index(label) for row, label in zip(probs, labels, strict=True)]
    assert rank_of_label(probs, labels).tolist() == places


def config(tmp_path: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "workspace": str(tmp_path),
            "inputs": mini.UNUSED_INPUTS,
            "teacher": {
                "model": "timm:test_resnet",
                "weights": str(tmp_path / "teacher.safetensors"),
                "image_size": 32,
            },
            "student": {"model": "timm:test_efficientnet"},
            "train": {"image_size": 32},
            "finetune": {"image_size": 40},
            "baseline": {},
        }
    )


def test_the_stage_measures_every_model_there_is(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    save_weights(build(ModelSpec("timm:test_resnet", 3)), tmp_path / "teacher.safetensors")
    student = build(ModelSpec("timm:test_efficientnet", 3))
    for name in ("train", "finetune"):
        (tmp_path / name).mkdir()
        save_weights(student, tmp_path / name / "student.safetensors")
    artifacts = {name: tmp_path / name for name in ("train", "finetune")}
    work = stage.stage(config(tmp_path)).open(Setup(config(tmp_path), trial.CLASSES, artifacts))
    spoil(Path(rows[2]["uri"]))
    rows[3]["class_id"] = None
    result = work(read_rows([trial.write_table(tmp_path / "v.parquet", rows)], ["labeled"], labelled=False))
    found = result.rows.to_pylist()
    assert [(row["model"], row["input"], row["num_images"]) for row in found] == [
        ("teacher", "images", 13),
        ("train", "images", 13),
        ("finetune", "images", 13),
    ]
    assert found[1]["num_parameters"] == sum(p.numel() for p in student.parameters())
    assert [r.image_id for r in result.rejects] == ["images/002.png"]
    assert result.rows.schema.names == [c.name for c in EVALUATIONS.columns if c.name != "part"]


def spoil(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("spoilt", "damage", "says"),
    [
        (slice(4, 5), Path.unlink, r"1 of 15 labelled images of the input 'images'.*images/004.png \(unreadable No"),
        (slice(None), spoil, r"15 of 15 .*images/000.png \(not_an_image"),
    ],
)
def test_an_accuracy_over_a_part_of_the_set_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], spoilt: slice, damage: Callable[[Path], None], says: str
) -> None:
    save_weights(build(ModelSpec("timm:test_resnet", 3)), tmp_path / "teacher.safetensors")
    work = stage.stage(config(tmp_path)).open(Setup(config(tmp_path), trial.CLASSES, {}))
    for row in rows[spoilt]:
        damage(Path(row["uri"]))
    with pytest.raises(UserError, match=f"evaluate: {says}"):
        work(read_rows([trial.write_table(tmp_path / "v.parquet", rows)], ["labeled"], labelled=False))


def test_an_input_without_labels_gives_no_figures(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    save_weights(build(ModelSpec("timm:test_resnet", 3)), tmp_path / "teacher.safetensors")
    unlabelled = [{**row, "class_id": None} for row in rows]
    work = stage.stage(config(tmp_path)).open(Setup(config(tmp_path), trial.CLASSES, {}))
    result = work(read_rows([trial.write_table(tmp_path / "v.parquet", unlabelled)], ["labeled"], labelled=False))
    assert result.rows.num_rows == 0 and result.rejects == []


def test_each_model_is_seen_at_the_size_of_its_own_section(tmp_path: Path) -> None:
    models = stage.settings(config(tmp_path))["models"]
    views = {"baseline": [32, 0.875], "train": [32, 0.875], "finetune": [40, 0.875]}
    assert {name: model["view"] for name, model in models.items()} == views
