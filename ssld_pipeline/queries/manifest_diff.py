"""What changed between two versions of the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import UserError
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    import duckdb


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


def diff_manifests(
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
