"""Training curves from metrics.jsonl: every model over one axis of optimiser steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ssld_pipeline.report.svg import Series, line_chart

ORDER = ("fit_teacher", "baseline", "train", "finetune")
MAX_POINTS = 300

Record = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """``title`` names what is drawn and its unit."""

    title: str
    svg: Markup
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Run:
    """One training run in one line; what it did not write is None. ``broken``: values that were not finite."""

    stage: str
    steps: int
    epochs: float | None
    loss: float | None
    best_top1: float | None
    last_top1: float | None
    images_per_s: float | None
    broken: int


def records(text: str) -> list[Record]:
    """The lines of metrics.jsonl that are whole, by step; of a step written twice (a resumed run) the later line wins
    key by key."""
    by_step: dict[int, Record] = {}
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a run that was killed while it wrote
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            by_step.setdefault(record["step"], {}).update(record)
    return [by_step[step] for step in sorted(by_step)]


def read_runs(models: Mapping[str, str]) -> dict[str, list[Record]]:
    """Records per stage in the order of ORDER, others after; stages without a whole line are left out."""
    names = sorted(models, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))
    return {name: found for name in names if (found := records(models[name]))}


def summary(stage: str, run: list[Record]) -> Run:
    top1 = [v for _, v in _values(run, "validation_top1")]
    return Run(
        stage,
        run[-1]["step"],
        _last(run, "epoch"),
        _last(run, "loss"),
        max(top1, default=None),
        top1[-1] if top1 else None,
        _last(run, "images_per_s"),
        sum(isinstance(v, float) and not math.isfinite(v) for record in run for v in record.values()),
    )


def charts(runs: Mapping[str, list[Record]]) -> list[Chart]:
    """Loss, validation top-1 and learning rate; a chart nobody wrote values for is left out."""
    wanted = (
        ("loss", "Loss", None, None),
        ("validation_top1", "Validation top-1, share in [0,1]", 0.0, 1.0),
        ("lr", "Learning rate", 0.0, None),
    )
    drawn = []
    for key, title, low, high in wanted:
        series = _series(runs, key)
        if series:
            label = f"{title} over optimiser steps of " + ", ".join(s.name for s in series)
            svg = line_chart(series, label=label, x="optimiser step", y=title.split(",")[0], low=low, high=high)
            drawn.append(Chart(title, svg, tuple(series)))
    return drawn


def _series(runs: Mapping[str, list[Record]], key: str) -> list[Series]:
    """``finetune`` goes on where ``train`` ends, so that it ends where the baseline of as many steps does."""
    shift = {"finetune": runs["train"][-1]["step"]} if "train" in runs else {}
    found = []
    for i, (stage, run) in enumerate(runs.items()):
        points = [(step + shift.get(stage, 0), value) for step, value in _values(run, key)]
        style = f"c{ORDER.index(stage) if stage in ORDER else i % len(ORDER)}"
        if points:
            found.append(Series(stage, style, _thinned(points)))
    return found


def _values(run: list[Record], key: str) -> list[tuple[float, float]]:
    found = [(r["step"], r.get(key)) for r in run]
    return [(step, float(v)) for step, v in found if isinstance(v, int | float) and math.isfinite(v)]


def _last(run: list[Record], key: str) -> float | None:
    values = _values(run, key)
    return values[-1][1] if values else None


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS: means of consecutive points."""
    width = math.ceil(len(points) / MAX_POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(sum(a for a, _ in g) / len(g), sum(b for _, b in g) / len(g)) for g in groups]
