"""finetune: distils the trained student once more, on the labelled images alone (+0.2 to +1.2 points as published)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.stages.stage import Setup, TrainData, TrainStage
from ssld_pipeline.stages.student import MODEL_FILE, distillation, student_settings, student_spec

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.training.job import TrainJob


def settings(config: RunConfig) -> dict[str, Any]:
    assert config.finetune is not None
    return student_settings(config, config.finetune)


def job(setup: Setup, data: TrainData) -> TrainJob:
    assert setup.config.finetune is not None
    student = student_spec(setup, setup.artifacts["train"] / MODEL_FILE)
    return distillation(setup, data, "finetune", setup.config.finetune, student, data.labeled, ("labeled",))


STAGE = TrainStage(
    name="finetune",
    version=1,
    reads=("catalog",),
    settings=settings,
    job=job,
    artifacts=("fit_teacher", "train"),
    networks=("teacher",),
    uses_classes=True,
    is_guarded=True,
    checks=("guard_training",),
    roles=lambda config: ("labeled",),
    enabled=lambda config: config.finetune is not None,
    also_reads=lambda config: ("soft_labels",) if config.finetune and config.finetune.replays else (),
)
