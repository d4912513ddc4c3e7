"""Which part of a batch each process computes, and whether the recipe can be shared at all."""

from __future__ import annotations

from ssld_pipeline.errors import UserError
from ssld_pipeline.training.job import TrainJob

_PUBLISHED = "published: 32 for the ResNets, 240 or 256 for MobileNetV3 large, 512 for MobileNetV1, 384 for V2"


def require_shares(job: TrainJob, num_processes: int) -> None:
    """UserError where the norm batches of a batch cannot be dealt to as many processes in equal shares."""
    settings = job.settings
    if settings.batch_size % settings.images_per_norm:
        raise UserError(
            f"{job.stage}: {job.section}.norm_batch ({settings.images_per_norm}) must divide batch_size "
            f"({settings.batch_size})"
        )
    if settings.num_micro_batches % num_processes == 0:
        return
    most = settings.batch_size // num_processes
    fitting = [n for n in range(1, most + 1) if settings.batch_size % (n * num_processes) == 0]
    hint = f"{job.section}.norm_batch: {fitting[-1]} gives each one" if fitting else "No norm_batch allows as many"
    raise UserError(
        f"{job.stage}: a batch has {settings.num_micro_batches} norm batches (batch_size {settings.batch_size} / "
        f"norm_batch {settings.images_per_norm}), which {num_processes} processes cannot share equally. Set "
        f"placement.train_workers to a divisor of {settings.num_micro_batches}, or change {job.section}.norm_batch, "
        f"which is part of the recipe. {hint}; {_PUBLISHED}"
    )


def require_norm_batch(job: TrainJob, student_has_batch_norm: bool, teacher_has_batch_norm: bool) -> None:
    """UserError where batch norm would use a whole large batch only because nothing says otherwise."""
    if not job.settings.needs_norm_batch or not (student_has_batch_norm or teacher_has_batch_norm):
        return
    who = job.student.model if student_has_batch_norm else "the teacher (teacher_batch_norm: train)"
    raise UserError(
        f"{job.stage}: {who} has batch norm, and batch_size is {job.settings.batch_size}: set "
        f"{job.section}.norm_batch, the images per batch norm statistic, a divisor of batch_size; {_PUBLISHED}"
    )
