"""Recall on planted copies: per kind an interval, and the copies that were missed, to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ssld_pipeline.report.pictures import Address, Album, Picture
from ssld_pipeline.report.svg import tag

MAX_MISSED = 24

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 720, 118, 96, 34, 19


@dataclass(frozen=True)
class Missed:
    """``name`` is that of the picture's file: number and kind."""

    name: str
    picture: Picture


@dataclass(frozen=True)
class CanarySection:
    """``figures`` as check_dedupe records them."""

    figures: Mapping[str, Any]
    chart: Markup
    missed: tuple[Missed, ...]


def canary_section(figures: Mapping[str, Any], missed: Sequence[Address], album: Album) -> CanarySection | None:
    """None where nothing was planted. ``missed``: where the pictures of missed copies lie; some of them are shown."""
    if not figures.get("kinds"):
        return None
    shown = tuple(Missed(address.image_id, album.thumbnail(address)) for address in missed[:MAX_MISSED])
    return CanarySection(figures, interval_chart(figures["kinds"], figures["min_canary_recall"]), shown)


def interval_chart(kinds: Sequence[Mapping[str, Any]], limit: float) -> Markup:
    """A line from low to high and a dot at recall per kind, required kinds first; a dashed line at ``limit``."""
    rows = sorted(kinds, key=lambda k: k["is_hard"])  # stable: the kinds' own order within both
    height = _TOP + _ROW * len(rows) + 10
    marks = [tag("text", f"{share:.0%}", x=_x(share), y=14, text_anchor="middle") for share in (0, 0.25, 0.5, 0.75, 1)]
    marks += [tag("line", class_="grid", x1=_x(s), x2=_x(s), y1=22, y2=height - 8) for s in (0, 0.25, 0.5, 0.75, 1)]
    marks += [tag("line", tag("title", f"required: {limit:.0%}"), **_upright(limit, height), class_="limit")]
    for number, row in enumerate(rows):
        marks += _row(row, _TOP + _ROW * number)
    label = "Recall per kind of planted copy, with 95 % intervals"
    return tag("svg", *marks, class_="chart intervals", viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=label)


def _row(row: Mapping[str, Any], y: int) -> list[Markup]:
    style = "c1" if row["is_hard"] else "c0"
    span = f"{row['kind']}: {row['recall']:.1%}, {row['low']:.1%} to {row['high']:.1%}"
    return [
        tag("text", row["kind"].replace("_", " "), x=_LEFT - 12, y=y + 4, text_anchor="end"),
        tag("line", tag("title", span), class_=f"line {style}", x1=_x(row["low"]), x2=_x(row["high"]), y1=y, y2=y),
        tag("circle", tag("title", span), class_=f"fill {style}", cx=_x(row["recall"]), cy=y, r=4.5),
        tag("text", f"{row['found']} of {row['planted']}", x=_WIDTH - _RIGHT + 16, y=y + 4),
    ]


def _x(share: float) -> float:
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _upright(share: float, height: int) -> dict[str, float]:
    return {"x1": _x(share), "x2": _x(share), "y1": 22, "y2": height - 8}
