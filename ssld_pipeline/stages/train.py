"""train: distils the student on the manifest. SSLD's stage 1: arXiv:2103.05959, section 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.stages.stage import Setup, TrainData, TrainStage
from ssld_pipeline.stages.student import distillation, student_settings, student_spec

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.training.job import TrainJob


def settings(config: RunConfig) -> dict[str, Any]:
    return student_settings(config, config.train)


def job(setup: Setup, data: TrainData) -> TrainJob:
    return distillation(
        setup, data, "train", setup.config.train, student_spec(setup), data.manifest, ("labeled", "pool")
    )


STAGE = TrainStage(
    name="train",
    version=1,
    reads=("manifest",),
    settings=settings,
    job=job,
    artifacts=("fit_teacher",),
    networks=("teacher", "student"),
    uses_classes=True,
    is_guarded=True,
    checks=("guard_training",),
    also_reads=lambda config: ("soft_labels",) if config.train.replays else (),
)
