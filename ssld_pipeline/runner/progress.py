"""What a run tells those who watch it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from ssld_pipeline.runner.planned import StagePlan


@dataclass
class StageReport:
    """What a stage did. ``num_rows`` and ``num_rejects`` are of this run; ``figures`` are the stage's own."""

    stage: str
    ran: int = 0
    reused: int = 0
    removed: int = 0
    moved: int = 0
    num_rows: int = 0
    num_rejects: int = 0
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


class Progress(Protocol):
    """Who watches a run. ``started`` is told the number of images, or of training steps, ahead; 0 where unknown;
    ``reached`` how many steps of a training are done, with a few words on it."""

    def started(self, plan: StagePlan, total: int) -> None: ...
    def advanced(self, amount: int) -> None: ...
    def reached(self, amount: int, note: str = "") -> None: ...
    def finished(self, report: StageReport) -> None: ...
