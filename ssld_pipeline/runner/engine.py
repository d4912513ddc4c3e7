"""What the run needs from whatever executes it; ``here`` and ``cluster`` are the two that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import Receipt, WorkerSpec
from ssld_pipeline.stages.stage import TrainData
from ssld_pipeline.store.part import Part


@dataclass(frozen=True)
class Training:
    """A training to be done: its stage, as a worker needs it, the folder of its files, and what identifies it."""

    spec: WorkerSpec
    folder: str
    fingerprint: str


class Engine(Protocol):
    def work(self, spec: WorkerSpec, units: Sequence[Unit]) -> Iterator[Receipt | None]:
        """Receipts in the order in which units are finished; None, where it waits for one, gives its consumer the time
        to commit what it has. UserError, or the stage's own exception, ends it."""

    def build(self, spec: WorkerSpec, unit: Unit) -> tuple[dict[str, Any], Part | None]:
        """An artifact's figures and its part of rejects."""

    def require_resources(self, spec: WorkerSpec) -> None:
        """UserError where the training run would need more at once than there is, or comes in time."""

    def fit(
        self, trainings: Sequence[Training], data: TrainData, at_row: Callable[[dict[str, Any]], None]
    ) -> list[dict[str, Any]]:
        """The final metrics of trainings that are done in one pass; each leaves its files in its folder and goes on
        from what is there.

        The jobs are made of ``spec`` and ``data`` where they run: what they start from is fetched to that machine.
        ``at_row`` is given rows of metrics from time to time: ``step``, the optimiser steps done, and what was found.
        """

    def close(self) -> None:
        """Give back what the engine holds."""
