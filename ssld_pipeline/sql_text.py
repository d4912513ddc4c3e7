"""Values as SQL text, for statements to which DuckDB takes no parameters."""

from __future__ import annotations

from collections.abc import Iterable


def literal(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """String literals with commas between them, as for ``IN (...)``."""
    return ", ".join(map(literal, texts))
