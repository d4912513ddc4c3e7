"""baseline: the same student trained on the labelled images alone, with hard labels, for as many optimiser steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.stages.stage import Setup, TrainData, TrainStage
from ssld_pipeline.stages.student import distillation, student_settings, student_spec
from ssld_pipeline.training.schedule import num_steps

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.training.job import TrainJob


def settings(config: RunConfig) -> dict[str, Any]:
    assert config.baseline is not None
    return student_settings(config, config.baseline, with_teacher=False)


def job(setup: Setup, data: TrainData) -> TrainJob:
    assert setup.config.baseline is not None
    section = setup.config.baseline.model_copy(update={"steps": _equal_steps(setup.config, data)})
    student = student_spec(setup)
    return distillation(setup, data, "baseline", section, student, data.labeled, ("labeled",), with_teacher=False)


def _equal_steps(config: RunConfig, data: TrainData) -> int:
    """As many as train and finetune take together, unless the section says otherwise."""
    assert config.baseline is not None
    if config.baseline.steps is not None:
        return config.baseline.steps
    steps = num_steps(config.train, data.num_labeled + data.num_mined)
    return steps + (num_steps(config.finetune, data.num_labeled) if config.finetune else 0)


STAGE = TrainStage(
    name="baseline",
    version=1,
    reads=("catalog",),
    settings=settings,
    job=job,
    networks=("student",),
    uses_classes=True,
    is_guarded=True,
    checks=("guard_training",),
    roles=lambda config: ("labeled",),
    enabled=lambda config: config.baseline is not None,
)
