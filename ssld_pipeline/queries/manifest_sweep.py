"""What a selection is worth before it is made, and what changed between two: a sweep over per_class, a diff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import UserError
from ssld_pipeline.stages import mining
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    import duckdb

    from ssld_pipeline.config.select import SelectConfig

SHOWN = ("per_class", "mined", "full", "smallest", "gini", "lowest_cut", "lack")  # what 80 columns hold
_STEPS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)


def sweep(workspace: Workspace, select: SelectConfig, num_classes: int, ks: Sequence[int] = ()) -> list[dict[str, Any]]:
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


@dataclass(frozen=True)
class Diff:
    """``classes``: one row per class that changed. ``images``: what entered or left, only those of the asked class.

    An image that changed its class left one and entered another.
    """

    before: int
    after: int
    classes: list[dict[str, Any]]
    images: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"from": self.before, "to": self.after, "classes": self.classes, "images": self.images}


_CHANGES = """
SELECT class_id, image_id, a.image_id IS NOT NULL AS entered,
       coalesce(a.score, b.score) AS score, coalesce(a.rank, b.rank) AS rank
FROM (SELECT * FROM after ANTI JOIN before USING (image_id, class_id)) a
FULL JOIN (SELECT * FROM before ANTI JOIN after USING (image_id, class_id)) b USING (image_id, class_id)
"""


def diff(
    workspace: Workspace, names: Sequence[str], before: int, after: int | None = None, class_id: int | None = None
) -> Diff:
    """What entered and left the manifest between two versions of its Delta table; ``after``: default the present one.

    ``names``: the class list, for versions that do not say theirs. UserError for a version that is not there, and for
    two of different class lists.
    """
    table = workspace.tables["manifest"]
    present = table.version()
    if present is None:
        raise UserError(f"diff: {workspace.uri} has no manifest yet; make it with: ssld run CONFIG --until select")
    after = present if after is None else after
    names = _names_of_both(workspace, before, after) or names
    with workspace.connect("manifest") as tables:
        for view, version in (("before", before), ("after", after)):
            workspace.add_view(tables, "manifest", version, view)
        tables.execute(f"CREATE TEMP TABLE changes AS {_CHANGES}")
        found = tables.execute("""
            SELECT class_id, coalesce(was, 0), coalesce(now, 0), entered, gone FROM
            (SELECT class_id, count(*) FILTER (entered) AS entered, count(*) FILTER (NOT entered) AS gone
             FROM changes GROUP BY 1)
            LEFT JOIN (SELECT class_id, count(*) AS was FROM before GROUP BY 1) USING (class_id)
            LEFT JOIN (SELECT class_id, count(*) AS now FROM after GROUP BY 1) USING (class_id)
            ORDER BY class_id""").fetchall()
        keys = ("class_id", "before", "after", "entered", "left")
        classes = [_named(dict(zip(keys, row, strict=True)), names) for row in found]
        return Diff(before, after, classes, [] if class_id is None else _images(tables, class_id))


def _names_of_both(workspace: Workspace, before: int, after: int) -> tuple[str, ...] | None:
    one, other = _class_list(workspace, before), _class_list(workspace, after)
    lists = ClassLists(workspace.uri)
    if one and other and one != other:
        raise UserError(
            f"diff: versions {before} and {after} of the manifest are of different class lists, {lists.uri(one)} and "
            f"{lists.uri(other)}; a class number of the one means another class in the other"
        )
    return lists.names(one) if one and other else None


def _class_list(workspace: Workspace, version: int) -> str | None:
    """Its digest; None where there is no manifest yet, or one that does not say."""
    table = workspace.tables["manifest"]
    return next((table.settings_of(part).get("classes") for part in table.parts(version).values()), None)


def _images(tables: duckdb.DuckDBPyConnection, class_id: int) -> list[dict[str, Any]]:
    query = """SELECT image_id, CASE WHEN entered THEN 'entered' ELSE 'left' END AS change, score, rank FROM changes
               WHERE class_id = ? ORDER BY entered DESC, rank, image_id"""
    found: list[dict[str, Any]] = tables.sql(query, params=[class_id]).to_arrow_table().to_pylist()
    return found


def _named(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    number = row["class_id"]
    return {"class_id": number, "class": names[number] if number < len(names) else "", **row}
