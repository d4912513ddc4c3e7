"""fit_teacher: finetunes the teacher's weights to the run's classes, or trains the teacher from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.stages.earlier_models import modernise_fit
from ssld_pipeline.stages.hold_out import FILE
from ssld_pipeline.stages.stage import Setup, TrainData, TrainStage
from ssld_pipeline.stages.teacher import teacher_settings
from ssld_pipeline.terms.hard_ce import HardCe
from ssld_pipeline.training.job import TrainJob

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig


def settings(config: RunConfig) -> dict[str, Any]:
    assert config.teacher.fit is not None
    network = {k: v for k, v in teacher_settings(config).items() if k not in ("image_size", "crop_pct")}
    return {"teacher": network, "fit": config.teacher.fit.recipe_of_fingerprint()}


def job(setup: Setup, data: TrainData) -> TrainJob:
    teacher, fit = setup.config.teacher, setup.config.teacher.fit
    assert fit is not None
    return TrainJob(
        stage="fit_teacher",
        section="teacher.fit",
        student=ModelSpec(
            teacher.model,
            len(setup.classes),
            dict(teacher.model_args),
            teacher.weights,
            teacher.mean,
            teacher.std,
            head="new",
        ),
        settings=fit,
        objective=(HardCe(rows="all"),),
        tables=data.teacher,
        roles=_roles(setup.config),
        validation=data.validation,
        class_names=setup.classes,
        left_out=data.left_out,
        left_out_file=str(setup.artifacts["hold_out"] / FILE) if "hold_out" in setup.artifacts else None,
        licence=teacher.licence,
    )


def _roles(config: RunConfig) -> tuple[str, ...]:
    return ("teacher",) if config.teacher.fit and config.teacher.fit.data else ("labeled",)


STAGE = TrainStage(
    name="fit_teacher",
    version=1,
    reads=("catalog",),
    settings=settings,
    job=job,
    artifacts=("hold_out",),
    networks=("teacher",),
    uses_classes=True,
    is_guarded=True,
    checks=("guard_training",),
    roles=_roles,
    enabled=lambda config: config.teacher.fit is not None,
    together=("fit_teacher",),
    modernise=modernise_fit,
)
