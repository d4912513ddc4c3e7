"""How many of its images a training run may miss before it stops: judged epoch by epoch, for each role by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ssld_pipeline.contracts import Reject
from ssld_pipeline.rejects import are_too_many, examples
from ssld_pipeline.training.data import Lost
from ssld_pipeline.training.group import Group
from ssld_pipeline.training.job import TrainJob


class RejectLimit:
    """The images of the present epoch that could not be used, beside the share of each role's that may be lost.

    A role by itself, since its images come from one place: a pool that is gone must not hide behind the labelled
    images. An epoch at a time, since what cannot be read passes: what a bad hour cost is forgotten. A run that is
    shorter than an epoch is held to its part of one.
    """

    def __init__(self, job: TrainJob, roles: pa.ChunkedArray, steps_per_epoch: int, total: int) -> None:
        self._job, self._per_epoch = job, steps_per_epoch
        found = {pair["values"]: pair["counts"] for pair in pc.value_counts(roles).to_pylist()}
        self._roles = tuple(sorted(found))
        in_epoch = min(1.0, total / steps_per_epoch)
        self._num_images = [found[role] * in_epoch for role in self._roles]
        self._epoch, self._counts = -1, self._none()

    def _none(self) -> NDArray[np.int64]:
        """By role: images that could not be used, and those among them that could not be read."""
        return np.zeros((len(self._roles), 2), np.int64)

    def add(self, step: int, lost: Sequence[Lost]) -> None:
        """``step``: counted from 0 over the whole run."""
        if step // self._per_epoch != self._epoch:
            self._epoch, self._counts = step // self._per_epoch, self._none()
        for role, reason in lost:
            self._counts[self._roles.index(role)] += (1, reason == "unreadable")

    def exceeded(self, group: Group) -> str | None:
        """What is beyond the limit, in words; the same in every process of the group."""
        counts = group.sum_counts(self._counts)
        for role, num_images, (num_lost, num_unread) in zip(self._roles, self._num_images, counts, strict=True):
            allowed = self._job.settings.max_reject_share * num_images
            if are_too_many(num_lost, num_unread, allowed):
                return f"{num_lost} of the {num_images:.0f} images of role {role} that are seen in an epoch"
        return None

    def explain(self, exceeded: str, rejects: Sequence[Reject]) -> str:
        """``rejects``: those of the run so far."""
        setting = f"{self._job.section}.max_reject_share"
        return (
            f"{self._job.stage}: {exceeded} could not be used, more than {setting} "
            f"({self._job.settings.max_reject_share:g}) allows. Some rejects of the run: {examples(rejects)}. No "
            f"model was committed. See that the inputs are there on the workers and run again, which goes on from the "
            f"last checkpoint; or raise {setting}"
        )
