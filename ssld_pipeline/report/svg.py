"""Charts as inline SVG: a few functions, coordinates in, markup out; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 12, 44

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """``style``: classes of the style sheet that give the colour (c0 .. c5) and the dashes (d0 .. d2)."""

    name: str
    style: str
    points: Points


@dataclass(frozen=True)
class Axis:
    """A linear axis; ``start`` and ``end`` are where ``low`` and ``high`` lie in the drawing."""

    name: str
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 2)


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """One element; ``class_`` and ``text_anchor`` become ``class`` and ``text-anchor``; everything is escaped."""
    written = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(str(v))}"' for k, v in attributes.items())
    inside = Markup("").join(children)
    return Markup(f"<{name}{written}>{inside}</{name}>")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((m for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9)), default=10)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """Tick labels: 1,200, 25k, 3M, 0.05."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x: str,
    y: str,
    low: float | None = None,
    high: float | None = None,
    ends: tuple[float, float] | None = None,
) -> Markup:
    """Lines over common axes; ``low`` and ``high`` fix the ends of the y axis, ``ends`` those of the x axis."""
    xs = [p[0] for s in series for p in s.points]
    ys = [p[1] for s in series for p in s.points]
    across = _across(x, *(ends or (min(xs), max(xs))))
    up = _up(y, min(ys) if low is None else low, max(ys) if high is None else high)
    return _chart(label, across, up, [_line(s, across, up) for s in series])


def histogram(counts: Sequence[int], *, low: float, high: float, label: str, x: str, y: str, style: str) -> Markup:
    """Bars of equal width from ``low`` to ``high``; hovering tells the range and the count."""
    across, up = _across(x, low, high), _up(y, 0, max(counts))
    width = (high - low) / len(counts)
    bars = []
    for i, count in enumerate(counts):
        begin, end = low + i * width, low + (i + 1) * width
        hint = tag("title", f"{begin:.2f} to {end:.2f}: {count:,}")
        bars.append(
            tag(
                "rect",
                hint,
                x=across(begin) + 0.5,
                y=up(count),
                class_=f"fill {style}",
                width=max(0.5, across(end) - across(begin) - 1),
                height=round(up(0) - up(count), 2),
            )
        )
    return _chart(label, across, up, bars)


def stacked_profile(layers: Sequence[tuple[str, Sequence[int]]], *, label: str, x: str, y: str) -> Markup:
    """Areas on top of one another over positions 1..N; a layer is (style, its N values)."""
    size = len(layers[0][1])
    totals = [sum(values) for values in zip(*(v for _, v in layers), strict=True)]
    across, up = _across(x, 0, size), _up(y, 0, max(totals))
    floor = [0] * size
    areas = []
    for style, values in layers:
        top = [a + b for a, b in zip(floor, values, strict=True)]
        outline = [*_steps(top), *reversed(_steps(floor))]
        areas.append(tag("polygon", class_=f"fill {style}", points=_path(outline, across, up)))
        floor = top
    return _chart(label, across, up, areas)


def _steps(values: Sequence[int]) -> list[tuple[float, float]]:
    return [point for i, v in enumerate(values) for point in ((i, v), (i + 1, v))]


def _across(name: str, low: float, high: float) -> Axis:
    return Axis(name, low, high if high > low else low + 1, LEFT, WIDTH - RIGHT)


def _up(name: str, low: float, high: float) -> Axis:
    """The y axis, widened to round numbers."""
    high = high if high > low else low + 1
    marks = ticks(low, high)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    return Axis(name, math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, HEIGHT - BOTTOM, TOP)


def _path(points: Points, across: Axis, up: Axis) -> str:
    return " ".join(f"{across(a):g},{up(b):g}" for a, b in points)


def _line(series: Series, across: Axis, up: Axis) -> Markup:
    hint = tag("title", series.name)
    if len(series.points) == 1:
        a, b = series.points[0]
        return tag("circle", hint, cx=across(a), cy=up(b), r=4, class_=f"fill {series.style}")
    return tag("polyline", hint, class_=f"line {series.style}", points=_path(series.points, across, up))


def _chart(label: str, across: Axis, up: Axis, marks: Sequence[Markup]) -> Markup:
    parts = [*_y_axis(up), *_x_axis(across), *marks]
    return tag("svg", *parts, class_="chart", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def _y_axis(up: Axis) -> list[Markup]:
    marks = ticks(up.low, up.high)
    lines = [tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=up(v), y2=up(v)) for v in marks]
    texts = [tag("text", short(v), x=LEFT - 7, y=up(v) + 4, text_anchor="end") for v in marks]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    name = tag("text", up.name, class_="axis", text_anchor="middle", transform=f"translate(13 {middle}) rotate(-90)")
    return [*lines, *texts, name]


def _x_axis(across: Axis) -> list[Markup]:
    base = HEIGHT - BOTTOM
    marks: list[Callable[[float], Markup]] = [
        lambda v: tag("line", class_="tick", x1=across(v), x2=across(v), y1=base, y2=base + 4),
        lambda v: tag("text", short(v), x=across(v), y=base + 18, text_anchor="middle"),
    ]
    line = tag("line", class_="tick", x1=LEFT, x2=WIDTH - RIGHT, y1=base, y2=base)
    name = tag("text", across.name, class_="axis", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 5, text_anchor="middle")
    return [line, *(mark(v) for v in ticks(across.low, across.high) for mark in marks), name]
