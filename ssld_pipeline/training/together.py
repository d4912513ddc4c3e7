"""Which jobs can be trained in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssld_pipeline.errors import UserError
from ssld_pipeline.training.job import TrainJob
from ssld_pipeline.training.schedule import num_steps

_SAME_SETTINGS = ("batch_size", "images_per_norm", "seed", "image_size", "min_crop_area", "augment")


def require_together(jobs: Sequence[TrainJob]) -> None:
    """UserError where jobs differ in what one pass has once: data, views, teacher, batches."""
    first, *others = jobs
    expected = _shared(first)
    for job in others:
        found = _shared(job)
        for name, value in expected.items():
            if found[name] != value:
                raise UserError(
                    f"{first.stage} and {job.stage} cannot be trained together: {name} is {value} and {found[name]}. "
                    f"Make them equal, or train them one after the other"
                )


def require_same_length(jobs: Sequence[TrainJob], num_images: int) -> None:
    """UserError where they take different numbers of steps over these images."""
    lengths = {job.stage: num_steps(job.settings, num_images) for job in jobs}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{stage} {steps}" for stage, steps in lengths.items())
        raise UserError(f"trainings of different length cannot be trained together; steps: {found}")


def _shared(job: TrainJob) -> dict[str, Any]:
    names = ("tables", "roles", "left_out", "left_out_file", "labelled_only", "teacher", "strategy")
    settings = {name.replace("images_per_norm", "norm_batch"): getattr(job.settings, name) for name in _SAME_SETTINGS}
    return {**settings, "num_classes": job.student.num_classes, **{name: getattr(job, name) for name in names}}
