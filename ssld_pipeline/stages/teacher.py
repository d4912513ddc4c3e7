"""The run's teacher, as every stage that asks it sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.spec import ModelSpec

if TYPE_CHECKING:
    from ssld_pipeline.config import RunConfig
    from ssld_pipeline.stages.stage import Setup


def teacher_spec(setup: Setup) -> ModelSpec:
    """The network that labels: the fitted one where the run fits it, the configured weights otherwise.

    UserError where there are no weights at all.
    """
    teacher = setup.config.teacher
    check(setup.config)
    fitted = str(setup.artifacts["fit_teacher"] / "student.safetensors") if teacher.fit else None
    return ModelSpec(
        model=teacher.model,
        num_classes=len(setup.classes),
        model_args=dict(teacher.model_args),
        weights=fitted or teacher.weights,
        mean=teacher.mean,
        std=teacher.std,
    )


def check(config: RunConfig) -> None:
    """UserError where the teacher would be a network with random weights."""
    if config.teacher.weights is None and config.teacher.fit is None:
        raise UserError(
            "teacher.weights is null and there is no teacher.fit: labels would come from random weights; give a "
            "weights file, or a teacher.fit section that trains one on the labeled images"
        )


def teacher_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what the teacher says of an image, its weights aside: the runner adds their digest."""
    teacher = config.teacher
    return {
        "model": teacher.model,
        "model_args": dict(teacher.model_args),
        "image_size": teacher.image_size,
        "crop_pct": teacher.crop_pct,
        "mean": list(teacher.mean),
        "std": list(teacher.std),
    }
