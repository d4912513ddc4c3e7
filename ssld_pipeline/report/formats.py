"""Numbers as the page writes them; what is missing is a dash."""

from __future__ import annotations

from markupsafe import Markup, escape

MISSING = "–"


def breakable(name: str) -> Markup:
    """A line may end after an underscore, so that a name need not be cut anywhere."""
    return Markup(str(escape(name)).replace("_", "_<wbr>"))


def num(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


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
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min"
