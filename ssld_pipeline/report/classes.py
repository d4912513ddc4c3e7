"""The manifest class by class: every class in a table, or the profile and the extremes of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ssld_pipeline.report import svg
from ssld_pipeline.report.figures import ClassRow

MAX_CLASS_ROWS = 60


def class_section(rows: Sequence[ClassRow]) -> dict[str, Any]:
    """What the template's section shows; ``class_rows``: all classes, or of many the extremes; ``profile`` and
    ``cuts``: charts for many classes, else None."""
    filled = [r for r in rows if r.labeled or r.mined]
    many = len(rows) > MAX_CLASS_ROWS
    largest = max((r.labeled + r.mined for r in rows), default=0) or 1
    shown = _extremes(rows) if many else rows
    charts = {"profile": _profile(rows), "cuts": _cuts(rows)} if many and filled else {"profile": None, "cuts": None}
    return {
        "class_rows": shown if filled else [],
        "num_classes": len(rows),
        "largest_class": largest,
        **charts,
        "empty_classes": sum(not r.mined for r in rows),
    }


def _extremes(rows: Sequence[ClassRow], each: int = 10) -> list[ClassRow]:
    """The classes with the fewest mined images, then those with the lowest cut."""
    fewest = sorted(rows, key=lambda r: (r.mined, r.class_id))[:each]
    others = [r for r in rows if r.cut is not None and r not in fewest]
    return [*fewest, *sorted(others, key=lambda r: (r.cut or 0.0, r.class_id))[:each]]


def _profile(rows: Sequence[ClassRow]) -> Markup:
    ordered = sorted(rows, key=lambda r: (-r.labeled - r.mined, -r.mined))
    layers = [("c0", [r.labeled for r in ordered]), ("c1", [r.mined for r in ordered])]
    return svg.stacked_profile(
        layers,
        x="classes, largest first",
        y="images",
        label=f"Labeled and mined images of {len(rows)} classes, largest first",
    )


def _cuts(rows: Sequence[ClassRow]) -> Markup | None:
    ordered = sorted((r.cut for r in rows if r.cut is not None), reverse=True)
    if not ordered:
        return None
    line = svg.Series("score at the cut", "c2", [(float(i), cut) for i, cut in enumerate(ordered, start=1)])
    return svg.line_chart(
        [line],
        x="classes, highest cut first",
        y="score at the cut",
        low=0.0,
        high=1.0,
        label=f"Lowest mined score of {len(ordered)} classes, highest first",
    )
