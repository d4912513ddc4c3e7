"""From the pool to the manifest as bars, each beginning where the one before it ends."""

from __future__ import annotations

from dataclasses import dataclass

from ssld_pipeline.report.figures import Counts


@dataclass(frozen=True)
class Step:
    """``num`` images, negative where they are lost; the bar runs from ``start`` to ``end``, shares of the largest.
    ``kind``: total, loss or gain."""

    name: str
    num: int
    kind: str
    start: float = 0.0
    end: float = 0.0


def waterfall(counts: Counts) -> list[Step]:
    """The steps, in order; "unaccounted for" only where the tables leave something (a run under way)."""
    unaccounted = counts.pool - counts.duplicates - counts.rejects_in_pool - counts.labelled
    steps = [
        Step("pool", counts.pool, "total"),
        Step("copies and denied images", counts.repeats - counts.duplicates, "loss"),
        *([Step("repeats within the pool", -counts.repeats, "loss")] if counts.repeats else []),
        Step("rejected", -counts.rejects_in_pool, "loss"),
        *([Step("not labelled yet", -unaccounted, "loss")] if unaccounted else []),
        Step("labelled by the teacher", counts.labelled, "total"),
        Step("not selected", counts.mined - counts.labelled, "loss"),
        Step("mined", counts.mined, "total"),
        Step("labeled images", counts.manifest - counts.mined, "gain"),
        Step("manifest", counts.manifest, "total"),
    ]
    largest = max(counts.pool, counts.manifest, counts.labelled, 1)
    placed, level = [], 0
    for step in steps:
        before, level = level, step.num if step.kind == "total" else level + step.num
        low, high = (0, level) if step.kind == "total" else sorted((before, level))
        placed.append(Step(step.name, step.num, step.kind, max(0, low) / largest, max(0, high) / largest))
    return placed
