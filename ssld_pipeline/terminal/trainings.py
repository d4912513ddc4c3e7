"""How trainings are printed for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ssld_pipeline.terminal.console import out, print_rows

_MOST_ROWS = 24
_SHOWN_OF_STATE = ("training", "state", "step", "network")


def state_rows(trainings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of rows of ``queries.trainings.training_rows``, what fits a terminal: a column of top-1 for each protected
    input."""
    inputs = dict.fromkeys(name for row in trainings for name in row["top1"])
    return [
        {key: row[key] for key in _SHOWN_OF_STATE} | {f"top1 {name}": row["top1"].get(name) for name in inputs}
        for row in trainings
    ]


def print_training(found: Mapping[str, Any]) -> None:
    """What it is, the settings that it was made with, its accuracies, and rows of its metrics, evenly spread."""
    about = found["training"]
    out.print(f"{about['name']}: {about['state']}{_when(about)}", markup=False)
    shown = ("network", "start", "data", "teacher", "objective", "image_size", "together", "step", "steps")
    print_rows([{"": key, "value": _text(about[key])} for key in shown if about[key]], "training")
    if found["settings"]:
        recorded = [
            *_flat(found["settings"].get("config", {})),
            *_flat({"artifacts": found["settings"].get("artifacts", {})}),
        ]
        print_rows([{"setting": key, "value": _text(value)} for key, value in recorded], "settings, as recorded")
        print_rows([{"figure": k, "value": _text(v)} for k, v in found["figures"].items()], "figures")
    for title in ("evaluations", "metrics"):
        if rows := found[title]:
            print_rows(_same_columns(_spread(rows)), title)


def _when(about: Mapping[str, Any]) -> str:
    made_at = about["made_at"]
    return "" if made_at is None else f", {datetime.fromtimestamp(made_at, UTC):%Y-%m-%d %H:%M} UTC"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; lists and empty mappings are values."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most ``_MOST_ROWS``, the first and the last among them; rows with a validation come before others."""
    if len(rows) <= _MOST_ROWS:
        return list(rows)
    kept = {0, len(rows) - 1} | {k for k, row in enumerate(rows) if "validation_top1" in row}
    left = max(2, _MOST_ROWS - len(kept))
    kept |= {round(k * (len(rows) - 1) / (left - 1)) for k in range(left)}
    return [rows[k] for k in sorted(kept)]


def _same_columns(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table has the columns of its first row."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]
