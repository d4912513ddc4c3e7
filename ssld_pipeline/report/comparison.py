"""All trainings side by side: one row each, the accuracies of an input on a common scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ssld_pipeline.queries.trainings import Training
from ssld_pipeline.report.figures import Evaluation
from ssld_pipeline.report.formats import MISSING, seconds

GIVEN = "teacher"
"""Name of the teacher's row where the run did not fit it."""


@dataclass(frozen=True)
class Row:
    """``cells``: the evaluations on each protected input, one for each size. ``style``: of its curve, empty without
    one. ``cost``: process-hours as text. ``made``: when, or how far it is."""

    training: Training
    num_parameters: int | None
    cells: tuple[tuple[Evaluation, ...], ...]
    style: str
    cost: str
    made: str


@dataclass(frozen=True)
class Scale:
    """The ends of the axis on which the intervals of an input are drawn, shares in [0,1]."""

    input: str
    low: float
    high: float

    def place(self, share: float) -> float:
        """Percent of the axis."""
        return round(100 * (share - self.low) / ((self.high - self.low) or 1), 1)


def compare(
    trainings: Sequence[Training], evaluations: Sequence[Evaluation], styles: Mapping[str, str]
) -> tuple[list[Scale], list[Row]]:
    """The protected inputs that models were measured on, the largest first, and a row for each training; models that
    are evaluated and no training come last. ``styles``: of the curves, by name."""
    scales = _scales(evaluations)
    named = {one.evaluated_as for one in trainings}
    others = dict.fromkeys(e.model for e in evaluations if e.model not in named)
    return scales, [
        _row(one, evaluations, scales, styles) for one in [*trainings, *(Training(name, False) for name in others)]
    ]


def _scales(evaluations: Sequence[Evaluation]) -> list[Scale]:
    found: dict[str, list[Evaluation]] = {}
    for e in sorted(evaluations, key=lambda e: (-e.num_images, e.input)):
        found.setdefault(e.input, []).append(e)
    return [Scale(name, min(e.low for e in own), max(e.high for e in own)) for name, own in found.items()]


def _row(one: Training, evaluations: Sequence[Evaluation], scales: Sequence[Scale], styles: Mapping[str, str]) -> Row:
    own = [e for e in evaluations if e.model == one.evaluated_as]
    cells = tuple(tuple(e for e in own if e.input == scale.input) for scale in scales)
    return Row(one, own[0].num_parameters if own else None, cells, styles.get(one.name, ""), _cost(one), _made(one))


def _cost(one: Training) -> str:
    if one.process_seconds is None:
        return MISSING
    return ("≥ " if one.is_resumed else "") + seconds(one.process_seconds)


def _made(one: Training) -> str:
    if one.made_at is None:
        if one.name == GIVEN:
            return "given weights"
        return f"training, step {one.step:,}" if one.step is not None else "nothing yet"
    made = f"{datetime.fromtimestamp(one.made_at, UTC):%Y-%m-%d %H:%M}"
    return f"{made}; again at step {one.step:,}" if one.step is not None else made
