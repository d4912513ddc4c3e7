"""What the training stages ask the loop to do, from a config alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mini
import pytest

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.pipeline import stage_of, stages
from ssld_pipeline.stages import fit_teacher
from ssld_pipeline.stages.stage import Setup, TrainData, TrainStage
from ssld_pipeline.training.job import OnlineTeacher, TrainJob

DATA = TrainData(
    manifest=("m.parquet",),
    labeled=("l.parquet",),
    validation=("v.parquet",),
    teacher=("t.parquet",),
    num_labeled=100,
    num_mined=300,
)
EMPTY = TrainData((), (), (), (), 0, 0)


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "workspace": "w",
            "inputs": mini.UNUSED_INPUTS,
            "teacher": {
                "model": "timm:resnet50",
                "weights": "t.safetensors",
                "licence": "MIT",
                "mean": [0.1, 0.2, 0.3],
            },
            "student": {"model": "timm:resnet18", "std": [0.5, 0.5, 0.5]},
            "train": {"epochs": 10, "batch_size": 40, "lr": 0.4, "loss": "symmetric_kl"},
            "finetune": {"epochs": 3, "lr": 0.004},
            "baseline": {},
            **changes,
        }
    )


def job(stage: str, data: TrainData = DATA, **changes: Any) -> TrainJob:
    own = config(**changes)
    artifacts = {name: Path("models", name) for name in (*own.nodes, "fit_teacher")}
    return stage_of(own, stage, TrainStage).job(Setup(own, ("a", "b", "c"), artifacts), data)


def online(found: TrainJob) -> OnlineTeacher:
    assert isinstance(found.teacher, OnlineTeacher)
    return found.teacher


def settings_of(stage: str, **changes: Any) -> dict[str, Any]:
    own = config(**changes)
    return stage_of(own, stage, TrainStage).settings(own)


def test_train_distils_on_the_manifest_from_a_random_start() -> None:
    found = job("train")
    assert (found.tables, found.roles, found.validation) == (("m.parquet",), ("labeled", "pool"), ("v.parquet",))
    teacher = online(found).spec
    assert teacher.weights == "t.safetensors" and found.student.weights is None
    assert teacher.mean == (0.1, 0.2, 0.3) and found.student.std == (0.5, 0.5, 0.5)
    assert found.student.num_classes == teacher.num_classes == 3 and found.licence == "MIT"


def test_finetune_goes_on_from_train_on_labelled_images_with_the_same_loss() -> None:
    found = job("finetune")
    assert found.student.weights == str(Path("models/train/student.safetensors")) and found.student.head == "auto"
    assert (found.tables, found.roles) == (("l.parquet",), ("labeled",))
    assert (found.objective[0].name, found.settings.lr, found.settings.batch_size) == ("symmetric_kl", 0.004, 40)
    assert online(found)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 10 * (400 // 40) + 3 * (100 // 40)),
        ({"finetune": None}, 10 * (400 // 40)),
        ({"baseline": {"steps": 7}}, 7),
        ({"train": {"steps": 50, "batch_size": 40}}, 50 + 3 * (100 // 40)),
    ],
)
def test_baseline_takes_as_many_steps_without_a_teacher(changes: dict[str, Any], steps: int) -> None:
    found = job("baseline", **changes)
    assert found.settings.steps == steps
    assert found.teacher is None and found.objective[0].name == "hard_ce" and found.roles == ("labeled",)
    assert found.licence is None


@pytest.mark.parametrize("stage", ["train", "finetune", "baseline"])
def test_a_plan_can_be_made_before_there_is_anything(stage: str) -> None:
    assert job(stage, EMPTY).tables == ()


@pytest.mark.parametrize(("data", "role"), [(None, "labeled"), ({"uri": "x", "format": "folder"}, "teacher")])
def test_the_teacher_is_fitted_with_a_fresh_classifier_on_its_own_data_if_it_has_any(data: Any, role: str) -> None:
    teacher = {"model": "timm:resnet50", "weights": "t.safetensors", "fit": {"data": data}, "mean": [0.1, 0.2, 0.3]}
    found = job("fit_teacher", teacher=teacher)
    assert found.student.head == "new" and found.student.weights == "t.safetensors" and found.teacher is None
    assert found.roles == (role,) == fit_teacher.STAGE.roles(config(teacher=teacher))
    assert found.student.mean == (0.1, 0.2, 0.3) and found.objective[0].name == "hard_ce"
    scratch = job("fit_teacher", teacher={**teacher, "weights": None})
    assert scratch.student.weights is None


def test_students_learn_from_the_fitted_teacher_where_there_is_one() -> None:
    teacher = {"model": "timm:resnet50", "weights": "t.safetensors", "fit": {}}
    found = online(job("train", teacher=teacher)).spec
    assert found.weights == str(Path("models/fit_teacher/student.safetensors")) and found.head == "keep"


def test_a_null_section_is_no_stage() -> None:
    off = config(finetune=None, baseline=None)
    names = ("train", "finetune", "baseline", "fit_teacher")
    assert [stage.name for stage in stages(off) if stage.name in names and stage.enabled(off)] == ["train"]


def test_how_often_a_run_is_validated_and_what_it_may_lose_changes_no_fingerprint_and_the_rest_does() -> None:
    first = settings_of("train")
    section = {"epochs": 10, "batch_size": 40, "lr": 0.4, "loss": "symmetric_kl"}
    assert settings_of("train", train={**section, "validations": 3, "max_reject_share": 0.5}) == first
    fitted = [{"model": "timm:resnet50", "weights": "t", "fit": {"max_reject_share": share}} for share in (0.1, 0.2)]
    one, other = (fit_teacher.STAGE.settings(config(teacher=teacher)) for teacher in fitted)
    assert one == other
    for key, value in {"lr": 0.5, "seed": 1, "loss": "js", "teacher_batch_norm": "eval", "image_size": 128}.items():
        assert settings_of("train", train={**section, key: value}) != first, key
