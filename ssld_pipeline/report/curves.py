"""Training curves from metrics.jsonl: every model over one axis of optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ssld_pipeline.queries.metrics import Record, last, values
from ssld_pipeline.queries.trainings import Training
from ssld_pipeline.report.svg import Series, line_chart

MAX_POINTS = 300
_COLOURS, _DASHES = 6, 3  # of the style sheet: c0 .. c5, d0 .. d2


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
    broken: int


def styles(trainings: Sequence[Training]) -> dict[str, str]:
    """Colour and dashes of each curve, by name of the training, for those that have metrics: colours first, then the
    same colours with other dashes."""
    drawn = [one.name for one in trainings if one.rows]
    return {name: f"c{k % _COLOURS} d{k // _COLOURS % _DASHES}" for k, name in enumerate(drawn)}


def summary(stage: str, run: Sequence[Record]) -> Run:
    """Of a run with at least one row."""
    top1 = [v for _, v in values(run, "validation_top1")]
    return Run(
        stage,
        run[-1]["step"],
        last(run, "epoch"),
        last(run, "loss"),
        max(top1, default=None),
        top1[-1] if top1 else None,
        sum(isinstance(v, float) and not math.isfinite(v) for record in run for v in record.values()),
    )


def charts(trainings: Sequence[Training]) -> list[Chart]:
    """Loss, validation top-1 and learning rate over the same steps; a chart nobody wrote values for is left out."""
    wanted = (
        ("loss", "Loss", None, None),
        ("validation_top1", "Validation top-1, share in [0,1]", 0.0, 1.0),
        ("lr", "Learning rate", 0.0, None),
    )
    drawn, ends = [], _ends(trainings)
    for key, title, low, high in wanted:
        series = _series(trainings, key)
        if series:
            label = f"{title} over optimiser steps of " + ", ".join(s.name for s in series)
            svg = line_chart(
                series, label=label, x="optimiser step", y=title.split(",")[0], low=low, high=high, ends=ends
            )
            drawn.append(Chart(title, svg, tuple(series)))
    return drawn


def _ends(trainings: Sequence[Training]) -> tuple[float, float] | None:
    """The first and the last step that any of them tells of."""
    by_name = {one.name: one for one in trainings}
    steps = [_begin(one, by_name) + row["step"] for one in trainings for row in one.rows]
    return (min(steps), max(steps)) if steps else None


def _series(trainings: Sequence[Training], key: str) -> list[Series]:
    by_name, style, found = {one.name: one for one in trainings}, styles(trainings), []
    for one in trainings:
        begin = _begin(one, by_name)
        points = [(float(begin + step), value) for step, value in values(one.rows, key)]
        if points:
            found.append(Series(one.name, style[one.name], _thinned(points)))
    return found


def _begin(one: Training, by_name: Mapping[str, Training]) -> int:
    """Where its curve begins: a training that starts from another goes on where that one ends."""
    start = by_name.get(one.starts_from or "")
    return _begin(start, by_name) + int(start.rows[-1]["step"]) if start and start.rows else 0


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS: means of consecutive points."""
    width = math.ceil(len(points) / MAX_POINTS)
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(sum(a for a, _ in g) / len(g), sum(b for _, b in g) / len(g)) for g in groups]
