"""Pool image and protected image side by side, what matches and what differs, pairs nearest to the decision first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssld_pipeline.copies.geometry.homography import Size, resized_pixels
from ssld_pipeline.copies.geometry.transform import Array, matrix, transform
from ssld_pipeline.report import matches
from ssld_pipeline.report.difference import difference
from ssld_pipeline.report.figures import class_name, rows
from ssld_pipeline.report.overlay import SLOT_PX, Overlay, overlay
from ssld_pipeline.report.pictures import Picture, encode, shrink
from ssld_pipeline.report.portraits import Portrait, Portraits

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from ssld_pipeline.config.dedupe import DedupeConfig
    from ssld_pipeline.report.pictures import Album

_TEXT_BYTES = 3_000  # of a pair on the page, beside its pictures, lines and names
_NO_LINES = {
    "exact": "equal bytes: nothing to match",
    "perceptual": "alike as a whole, not by key points",
    "denied": "on the deny list",
}
_WITHIN_POOL = {"copy_of_copy": "like a pool image that copies it", "repeat": "the same picture, in the pool again"}


@dataclass(frozen=True)
class Pair:
    """``words`` say how the pool image differs, ``note`` what the lines are; ``mean_difference``: grey levels."""

    row: dict[str, Any]
    class_name: str | None
    words: tuple[str, ...]
    pool: Picture
    protected: Picture
    overlay: Overlay | None = None
    note: str = ""
    difference: Picture | None = None
    mean_difference: float | None = None

    @property
    def num_bytes(self) -> int:
        """What the pair takes on the page, at most."""
        pictures = [p.num_bytes for p in (self.pool, self.protected, self.difference) if p]
        names = 8 * (len(self.row["image_id"]) + len(self.row["protected_id"]))
        return sum(pictures) + (self.overlay.num_bytes if self.overlay else 0) + names + _TEXT_BYTES


@dataclass(frozen=True)
class Gallery:
    """The pairs shown, and how many more would have been shown but for the page's bytes."""

    pairs: tuple[Pair, ...]
    num_without_room: int


def gallery(
    tables: duckdb.DuckDBPyConnection, album: Album, config: DedupeConfig, limit: int, classes: Sequence[str]
) -> Gallery:
    """At most ``limit`` border cases, as many as the album has room for."""
    cases = border_cases(tables, limit) if album.left > _TEXT_BYTES else []
    portraits = Portraits(cases, album.read, config)
    shown: list[Pair] = []
    for row in cases:
        pair = draw(row, portraits, config, classes)
        if not album.take(pair.num_bytes):
            break
        shown.append(pair)
    return Gallery(tuple(shown), len(cases) - len(shown))


# Each side is cut before it is ordered whole: of a million pairs the sort sees the first few hundred. Copies among the
# images that are trained on come first. Denied pairs say nothing of the threshold and follow it, as do those within the
# pool, which another threshold decides.
_BORDER_CASES = """
WITH sides AS MATERIALIZED (
    (SELECT *, -1 AS side, -score AS doubt FROM duplicates WHERE role <> 'pool' AND verdict <> 'no_copy'
        AND protected_id IS NOT NULL ORDER BY score DESC, image_id, protected_id LIMIT $1)
    UNION ALL
    (SELECT *, 0 AS side, score AS doubt FROM duplicates WHERE verdict IN ('copy', 'allowed', 'reported')
        AND coalesce(role, 'pool') = 'pool'
        AND protected_id IS NOT NULL ORDER BY score, image_id, protected_id LIMIT $1)
    UNION ALL
    (SELECT *, 1 AS side, -score AS doubt FROM duplicates WHERE verdict = 'no_copy'
        AND protected_id IS NOT NULL ORDER BY score DESC, image_id, protected_id LIMIT $1)
    UNION ALL
    (SELECT *, 2 AS side, -score AS doubt FROM duplicates WHERE verdict = 'denied'
        AND coalesce(role, 'pool') = 'pool'
        AND protected_id IS NOT NULL ORDER BY score DESC, image_id, protected_id LIMIT $1)
    UNION ALL
    (SELECT *, 3 AS side, score AS doubt FROM duplicates WHERE verdict = 'copy_of_copy'
        ORDER BY score, image_id, protected_id LIMIT $1)
    UNION ALL
    (SELECT *, 4 AS side, score AS doubt FROM duplicates WHERE verdict = 'repeat'
        ORDER BY score, image_id, protected_id LIMIT $1)),
ordered AS (
    SELECT *, row_number() OVER (PARTITION BY side ORDER BY doubt, image_id, protected_id) AS place
    FROM sides ORDER BY place, side LIMIT $1)
SELECT o.image_id, o.protected_id, o.method, o.num_matches, o.num_inliers, o.score, o.num_blocks, o.coverage,
       o.explained, o.homography, o.flipped, coalesce(o.role, 'pool') AS role, o.verdict, o.is_duplicate, b.class_id,
       CASE b.role WHEN 'pool' THEN 'kept' ELSE coalesce(b.role, 'protected') END AS other,
       a.uri AS uri, a."offset" AS "offset", a.size_bytes AS size_bytes,
       b.uri AS protected_uri, b."offset" AS protected_offset, b.size_bytes AS protected_size_bytes
FROM ordered o LEFT JOIN catalog a ON a.image_id = o.image_id LEFT JOIN catalog b ON b.image_id = o.protected_id
ORDER BY o.place, o.side
"""


def border_cases(tables: duckdb.DuckDBPyConnection, limit: int) -> list[dict[str, Any]]:
    """``limit`` pairs with both addresses: lowest confirmed and highest rejected score first, by turns."""
    return rows(tables, _BORDER_CASES, [limit])


def draw(row: dict[str, Any], portraits: Portraits, config: DedupeConfig, classes: Sequence[str]) -> Pair:
    """The pair with its pictures; what cannot be read is a placeholder."""
    name = None if row["class_id"] is None else class_name(classes, row["class_id"])
    pool, protected = portraits.pool[row["image_id"]], portraits.protected[row["protected_id"]]
    h = matrix(row["homography"])
    if isinstance(pool, Picture) or isinstance(protected, Picture):
        words = ("mirrored",) if row["flipped"] else ()
        return Pair(row, name, words, _picture(pool), _picture(protected))
    if h is None:
        both = overlay(pool.size, protected.size, None, matches.NO_LINES)
        words = () if row["verdict"] in _WITHIN_POOL else ("no transform stored",)
        return Pair(row, name, words, pool.picture, protected.picture, both, _why_no_lines(row))
    return _compared(row, name, pool, protected, h, config)


def _picture(portrait: Portrait | Picture) -> Picture:
    return portrait if isinstance(portrait, Picture) else portrait.picture


def _compared(
    row: dict[str, Any], name: str | None, pool: Portrait, protected: Portrait, h: Array, config: DedupeConfig
) -> Pair:
    found = transform(h, pool.size, protected.size)
    words = tuple(found.words()) if found else ("the transform folds the image",)
    lines = _lines(row, pool, protected, h, config)
    both = overlay(pool.size, protected.size, h, lines)
    apart = _difference(pool, protected, h) if found else None
    return Pair(row, name, words, pool.picture, protected.picture, both, _note(row, both), *(apart or (None, None)))


def _lines(row: dict[str, Any], pool: Portrait, protected: Portrait, h: Array, config: DedupeConfig) -> matches.Lines:
    if row["method"] != "sift" or pool.keypoints is None or protected.keypoints is None:
        return matches.NO_LINES
    unit = matches.unit_homography(h, pool.size, protected.size)
    return matches.find_lines(pool.keypoints, protected.keypoints, unit, config.max_match_distance)


def _why_no_lines(row: dict[str, Any]) -> str:
    return _WITHIN_POOL.get(row["verdict"]) or _NO_LINES.get(row["method"], "")


def _note(row: dict[str, Any], both: Overlay) -> str:
    if row["method"] in _NO_LINES:
        return _why_no_lines(row)
    if not both.num_matched:
        return "no match lies on the stored transform"
    number = f"{both.num_drawn} of {both.num_matched}" if both.num_drawn < both.num_matched else str(both.num_matched)
    return f"{number} matched"


def _difference(pool: Portrait, protected: Portrait, h: Array) -> tuple[Picture, float] | None:
    """At the thumbnails' size."""
    small = shrink(protected.grey, SLOT_PX)
    target: Size = (small.shape[1], small.shape[0])
    source: Size = (pool.grey.shape[1], pool.grey.shape[0])
    found = difference(pool.grey, small, resized_pixels(protected.size, target) @ h @ resized_pixels(source, pool.size))
    return (encode(found.pixels), found.mean) if found else None
