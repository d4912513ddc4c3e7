"""What a selection is worth before it is made: a sweep over select.per_class."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import UserError
from ssld_pipeline.stages import mining
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    import duckdb

    from ssld_pipeline.config.select import SelectConfig

SHOWN = ("per_class", "mined", "full", "smallest", "gini", "lowest_cut", "lack")  # what 80 columns hold
_STEPS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)


def sweep_manifest(
    workspace: Workspace, select: SelectConfig, num_classes: int, ks: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """One row per ``per_class`` of ``ks``; default: the configured (or solved) one, its halves and its doubles.

    Counts are before ``min_per_class`` fills; ``short`` classes and the images they ``lack`` say what it would do.
    ``gini``: of the class sizes, 0 where all are equal, near 1 where few hold everything. ``cut``: the lowest score
    taken, of the classes that are full. UserError where nothing is labelled yet.
    """
    with workspace.connect("soft_labels") as tables:
        if not tables.execute("SELECT 1 FROM soft_labels LIMIT 1").fetchall():
            raise UserError(f"select-sweep: {workspace.uri} has no soft labels yet; ssld run CONFIG --until label")
        mining.prepare(tables, select)
        if not ks:
            middle = mining.solved_per_class(tables, select)
            ks = sorted({max(1, round(middle * step)) for step in _STEPS})
        return [_balance(k, sizes, select, num_classes) for k, sizes in _sizes(tables, select, sorted(set(ks))).items()]


def _sizes(
    tables: duckdb.DuckDBPyConnection, select: SelectConfig, ks: Sequence[int]
) -> dict[int, list[tuple[int, float]]]:
    """k -> (images, lowest score) of each class that has any. An image's class and rank do not depend on k."""
    columns = ", ".join(f"count(*) FILTER (rank <= {k}), min(score) FILTER (rank <= {k})" for k in ks)
    query = f"SELECT {columns} FROM ({mining.best(select, ks[-1])}) GROUP BY class_id ORDER BY class_id"
    rows = tables.execute(query).fetchall()
    return {k: [(row[2 * i], row[2 * i + 1]) for row in rows if row[2 * i]] for i, k in enumerate(ks)}


def _balance(per_class: int, sizes: list[tuple[int, float]], select: SelectConfig, num_classes: int) -> dict[str, Any]:
    counts = sorted([0] * (num_classes - len(sizes)) + [n for n, _ in sizes])
    cuts = [score for n, score in sizes if n >= per_class]
    lack = [select.min_per_class - n for n in counts if n < select.min_per_class]
    return {
        "per_class": per_class,
        "mined": sum(counts),
        "full": sum(n >= per_class for n in counts),
        "empty": sum(n == 0 for n in counts),
        "smallest": counts[0],
        "median": median(counts),
        "gini": _gini(counts),
        "lowest_cut": min(cuts, default=None),
        "median_cut": median(cuts) if cuts else None,
        "short": len(lack),
        "lack": sum(lack),
    }


def _gini(counts: Sequence[int]) -> float:
    """Of numbers that rise; 0 where there is nothing."""
    total, num = sum(counts), len(counts)
    return sum((2 * i - num - 1) * n for i, n in enumerate(counts, start=1)) / (num * total) if total else 0.0
