"""What the training loop knows of how networks learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.group import Group
from ssld_pipeline.training.job import TrainJob
from ssld_pipeline.training.network import TrainedNetwork
from ssld_pipeline.training.views_on_device import Views


@dataclass(frozen=True)
class Member:
    """A job of a pass, and the rate of each of its steps, counted from 0."""

    job: TrainJob
    lr_of: Callable[[int], float]


class Strategy(Protocol):
    """Decides in which order networks learn. Jobs that are trained together have one strategy between them."""

    @property
    def students(self) -> Sequence[TrainedNetwork]:
        """Of each job the network that is evaluated and becomes its model."""

    def step(self, number: int, views: Views) -> Tensor:
        """Make step ``number``, from 0, with this process's share of its batch.

        Returns what each norm batch of the share contributes to the loss of the batch, detached,
        ``[jobs, norm batches]``. All processes call it together; nothing is read back from the device.
        """

    def tensors(self, member: int) -> dict[str, Tensor]:
        """All that the next step of job ``member`` depends on, on the CPU."""

    def restore(self, member: int, tensors: dict[str, Tensor]) -> None:
        """Take what `tensors` gave."""


Open = Callable[[Sequence[Member], Group, Execution], Strategy]
