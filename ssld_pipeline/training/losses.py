"""Losses of the jobs of a pass, kept on the device until somebody asks: reading them back has a GPU wait."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssld_pipeline.training.group import Group

_NEVER = torch.iinfo(torch.int64).max


class NotFinite(NamedTuple):
    """The number of a job, a step, counted from 1, and a norm batch of its batch."""

    job: int
    step: int
    norm_batch: int


class Losses:
    """Of ``num_jobs`` jobs since their last rows, and where one was not finite. A batch has ``num_norm_batches``, those
    of this process being consecutive."""

    def __init__(self, num_jobs: int, num_norm_batches: int, group: Group) -> None:
        self._group, self._num_norm_batches = group, num_norm_batches
        share = num_norm_batches // group.size
        self._own = torch.arange(share, device=group.device) + group.rank * share
        self._sums = torch.zeros(num_jobs, dtype=torch.float64, device=group.device)
        self._first_bad = torch.full((num_jobs,), _NEVER, device=group.device)
        self._steps = [0] * num_jobs

    def add(self, done: int, losses: Tensor) -> None:
        """Those of step ``done``, counted from 1: ``[jobs, norm batches of this process]``."""
        self._sums += losses.sum(dim=1)
        self._steps = [steps + 1 for steps in self._steps]
        places = torch.where(torch.isfinite(losses), _NEVER, self._own + done * self._num_norm_batches)
        self._first_bad = torch.minimum(self._first_bad, places.amin(dim=1))

    def sums(self) -> list[tuple[float, int]]:
        """Of each job the sum of losses, over all processes, and of how many steps."""
        return list(zip(self._group.sum(self._sums).tolist(), self._steps, strict=True))

    def restore(self, job: int, loss_sum: float, steps: int) -> None:
        self._sums[job] = loss_sum if self._group.rank == 0 else 0
        self._steps[job] = steps

    def take_means(self) -> list[float]:
        """Of the steps of each job, which are forgotten."""
        means = [loss_sum / steps for loss_sum, steps in self.sums()]
        self._sums, self._steps = torch.zeros_like(self._sums), [0] * len(means)
        return means

    def first_not_finite(self) -> NotFinite | None:
        """The earliest of all jobs and processes."""
        first = self._group.least(self._first_bad).tolist()
        if min(first) == _NEVER:
            return None
        return NotFinite(first.index(min(first)), *divmod(min(first), self._num_norm_batches))
