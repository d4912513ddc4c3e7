"""What the run needs from whatever executes it; ``here`` and ``cluster`` are the two that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import Receipt, WorkerSpec
from ssld_pipeline.stages.stage import TrainData
from ssld_pipeline.store.part import Part


class Engine(Protocol):
    def work(self, spec: WorkerSpec, units: Sequence[Unit]) -> Iterator[Receipt | None]:
        """Receipts in the order in which units are finished; None, where it waits for one, gives its consumer the time
        to commit what it has. UserError, or the stage's own exception, ends it."""

    def build(self, spec: WorkerSpec, unit: Unit) -> tuple[dict[str, Any], Part | None]:
        """An artifact's figures and its part of rejects."""

    def require_resources(self, spec: WorkerSpec) -> None:
        """UserError where the training run would need more at once than there is, or comes in time."""

    def fit(
        self, spec: WorkerSpec, data: TrainData, folder: str, fingerprint: str, at_step: Callable[[int], None]
    ) -> dict[str, Any]:
        """The final metrics of a training run that leaves its files in ``folder`` and goes on from what is there.

        The job is made of ``spec`` and ``data`` where it runs: what it starts from is fetched to that machine.
        ``at_step`` is told from time to time how many optimiser steps are done.
        """

    def close(self) -> None:
        """Give back what the engine holds."""
