"""Numbers as the page writes them; what is missing is a dash."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

MISSING = "–"
_WORD_ENDS = re.compile(r"(?<=[_./:-])(?=[A-Za-z])")


def breakable(name: str) -> Markup:
    """A line may end after a mark that joins two words, so that a name need not be cut anywhere."""
    return Markup("<wbr>").join(escape(piece) for piece in _WORD_ENDS.split(name))


def num(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def millions(value: int) -> str:
    """Three digits: 5.48 M, 25.6 M, 194 M; smaller numbers as they are."""
    if value < 1_000_000:
        return num(value)
    size = value / 1e6
    return f"{size:.0f} M" if size >= 100 else f"{size:.3g} M"


def percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f} %"


def share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def size(num_bytes: int | None) -> str:
    size = float(num_bytes or 0)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def seconds(value: float | None) -> str:
    if value is None:
        return MISSING
    if value < 60:
        return f"{value:.1f} s"
    hours, minutes = divmod(round(value / 60), 60)
    if hours >= 100:
        return f"{round(value / 3600):,} h"
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min"
