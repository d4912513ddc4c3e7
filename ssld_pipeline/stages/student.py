"""The run's student, as the stages that train it see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.config.train import TrainSettings
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.stages.label import recipe_of
from ssld_pipeline.stages.stage import Setup, TrainData
from ssld_pipeline.stages.teacher import teacher_licence, teacher_settings, teacher_spec
from ssld_pipeline.training.job import StoredTeacher, TrainJob

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig

MODEL_FILE = "student.safetensors"


def student_spec(setup: Setup, weights: Path | None = None) -> ModelSpec:
    """``weights``: of an earlier stage; null: those of the config with a fresh classifier, or a random start."""
    student = setup.config.student
    return ModelSpec(
        model=student.model,
        num_classes=len(setup.classes),
        model_args=dict(student.model_args),
        weights=str(weights) if weights else student.weights,
        mean=student.mean,
        std=student.std,
        new_head=weights is None and student.weights is not None,
    )


def student_settings(config: RunConfig, section: TrainSettings, with_teacher: bool = True) -> dict[str, Any]:
    """The settings that decide what a student becomes, weights aside: the runner adds their digests.

    How often it is validated changes nothing but the log, and what it may lose, whether there is a student.
    """
    student = config.student.model_dump(mode="json", exclude={"weights"})
    train = section.model_dump(mode="json", exclude={"validations", "mismatched_views", "max_reject_share"})
    settings: dict[str, Any] = {"train": train, "student": student}
    if section.replays:
        settings["label"] = {"num_kept": config.label.num_kept, "views": config.label.views}
    return {**settings, "teacher": teacher_settings(config)} if with_teacher else settings


def distillation(
    setup: Setup,
    data: TrainData,
    stage: str,
    section: TrainSettings,
    student: ModelSpec,
    tables: tuple[str, ...],
    roles: tuple[str, ...],
    with_teacher: bool = True,
) -> TrainJob:
    """The teacher sees the very batch the student sees, or saw its views before; with loss ``ce`` there is none.

    ``with_teacher``: as in `student_settings`; the model is under the licence of what it is made with.
    """
    return TrainJob(
        stage=stage,
        student=student,
        settings=section,
        tables=tables,
        roles=roles,
        validation=data.validation,
        teacher=_teacher(setup, data, section),
        class_names=setup.classes,
        left_out=data.left_out,
        licence=teacher_licence(setup.config) if with_teacher else None,
    )


def _teacher(setup: Setup, data: TrainData, section: TrainSettings) -> ModelSpec | StoredTeacher | None:
    if section.replays:
        label = setup.config.label
        num_kept = min(label.num_kept, len(setup.classes))
        return StoredTeacher(data.soft_labels, label.views, num_kept, recipe_of(setup.config))
    return None if section.loss == "ce" else teacher_spec(setup)
