"""Rows of ``metrics.jsonl``, which every training writes while it runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import median
from typing import Any

Record = dict[str, Any]


def records(text: str) -> list[Record]:
    """The lines that are whole, by step; of a step written twice (a resumed run) the later line wins key by key."""
    by_step: dict[int, Record] = {}
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a run that was killed while it wrote
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            by_step.setdefault(record["step"], {}).update(record)
    return [by_step[step] for step in sorted(by_step)]


def values(run: Sequence[Record], key: str) -> list[tuple[int, float]]:
    """(step, value) of every row that has a finite value."""
    found = [(r["step"], r.get(key)) for r in run]
    return [(step, float(v)) for step, v in found if isinstance(v, int | float) and math.isfinite(v)]


def last(run: Sequence[Record], key: str) -> float | None:
    """The last finite value; None without any."""
    found = values(run, key)
    return found[-1][1] if found else None


def images_per_s(run: Sequence[Record]) -> float | None:
    """Median over the rows: the first ones hold what a start costs. None where no row has a speed."""
    found = [value for _, value in values(run, "images_per_s")]
    return median(found) if found else None


def was_resumed(run: Sequence[Record]) -> bool:
    """Whether the training was stopped and went on from a checkpoint."""
    return any("resumed_at" in row for row in run)
