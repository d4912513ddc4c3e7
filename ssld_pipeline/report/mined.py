"""The best and the worst mined images of the classes worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssld_pipeline.report.figures import ClassRow, rows
from ssld_pipeline.report.pictures import Address, Album, Picture

if TYPE_CHECKING:
    import duckdb

MAX_CLASSES = 12


@dataclass(frozen=True)
class Mined:
    image_id: str
    rank: int
    score: float
    picture: Picture


@dataclass(frozen=True)
class MinedClass:
    row: ClassRow
    best: tuple[Mined, ...]
    worst: tuple[Mined, ...]


def worth_a_look(classes: Sequence[ClassRow]) -> list[ClassRow]:
    """All classes with mined images where they are few, else those whose cut lies lowest, in the run's order."""
    with_mined = [c for c in classes if c.mined]
    doubtful = sorted(with_mined, key=lambda c: (c.cut or 0.0, c.class_id))[:MAX_CLASSES]
    return sorted(doubtful, key=lambda c: c.class_id)


def ends(tables: duckdb.DuckDBPyConnection, classes: Sequence[ClassRow], album: Album, each: int) -> list[MinedClass]:
    """Up to ``each`` best and ``each`` worst images of every class; no image in both."""
    found = rows(
        tables,
        """
        SELECT class_id, image_id, uri, "offset", size_bytes, rank, score,
               row_number() OVER best AS place, count(*) OVER (PARTITION BY class_id) AS num
        FROM manifest WHERE role = 'pool' AND list_contains($1, class_id)
        WINDOW best AS (PARTITION BY class_id ORDER BY rank, image_id)
        QUALIFY place <= $2 OR place > num - $2
        ORDER BY class_id, place
    """,
        [[c.class_id for c in classes], each],
    )
    return [_ends_of(c, [r for r in found if r["class_id"] == c.class_id], album, each) for c in classes]


def _ends_of(row: ClassRow, found: list[dict[str, Any]], album: Album, each: int) -> MinedClass:
    images = [_mined(r, album) for r in found]
    return MinedClass(row, tuple(images[:each]), tuple(images[each:]))


def _mined(r: dict[str, Any], album: Album) -> Mined:
    address = Address(r["image_id"], r["uri"], r["offset"], r["size_bytes"])
    return Mined(r["image_id"], r["rank"], r["score"], album.thumbnail(address))
