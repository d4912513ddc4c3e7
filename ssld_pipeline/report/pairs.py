"""Pool image and protected image side by side, the pairs nearest to the decision first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ssld_pipeline.kernels.images import Image, Pixels
from ssld_pipeline.report.figures import rows
from ssld_pipeline.report.pictures import Address, Album, Picture, shrink
from ssld_pipeline.report.transform import Array, frame, matrix, project, transform

if TYPE_CHECKING:
    import duckdb

SIDE_PX = 144
PICTURES_PER_PAIR = 3
BACKGROUND = (128, 128, 128)  # where the warped pool image shows nothing


@dataclass(frozen=True)
class Outline:
    """The protected frame on the pool thumbnail: an SVG viewBox that holds both, and the polygon's points, in
    thumbnail pixels."""

    view_box: str
    points: str


@dataclass(frozen=True)
class Pair:
    """``words`` say how the pool image differs; ``warped`` is the pool image in the protected frame."""

    row: dict[str, Any]
    words: tuple[str, ...]
    pool: Picture
    outline: Outline | None
    protected: Picture
    warped: Picture | None


def border_cases(tables: duckdb.DuckDBPyConnection, limit: int) -> list[dict[str, Any]]:
    """``limit`` pairs with both addresses: lowest confirmed and highest rejected score first, by turns."""
    return rows(
        tables,
        """
        WITH ordered AS (
            SELECT *, row_number() OVER (PARTITION BY is_duplicate ORDER BY
                       CASE WHEN is_duplicate THEN score ELSE -score END, image_id, protected_id) AS place
            FROM duplicates WHERE protected_id IS NOT NULL ORDER BY place, is_duplicate DESC LIMIT ?)
        SELECT o.image_id, o.protected_id, o.method, o.num_matches, o.num_inliers, o.score, o.homography, o.flipped,
               o.is_duplicate, o.place, b.class_id,
               a.uri AS uri, a."offset" AS "offset", a.size_bytes AS size_bytes,
               b.uri AS protected_uri, b."offset" AS protected_offset, b.size_bytes AS protected_size_bytes
        FROM ordered o LEFT JOIN catalog a ON a.image_id = o.image_id LEFT JOIN catalog b ON b.image_id = o.protected_id
        ORDER BY o.place, o.is_duplicate DESC
    """,
        [limit],
    )


def draw(row: dict[str, Any], album: Album) -> Pair:
    """The pair with its pictures; what cannot be read is a placeholder."""
    pool = album.load(Address(row["image_id"], row["uri"], row["offset"], row["size_bytes"]))
    protected = album.load(
        Address(row["protected_id"], row["protected_uri"], row["protected_offset"], row["protected_size_bytes"])
    )
    pool_picture, protected_picture = _thumbnail(pool, album), _thumbnail(protected, album)
    h = matrix(row["homography"])
    if isinstance(pool, Picture) or isinstance(protected, Picture) or h is None:
        known = (*(["mirrored"] if row["flipped"] else []), *(["no transform stored"] if h is None else []))
        return Pair(row, known, pool_picture, None, protected_picture, None)
    found = transform(h, (pool.width, pool.height), (protected.width, protected.height))
    words = tuple(found.words()) if found else ("the transform folds the image",)
    warped = album.embed(_warp(pool, protected, h)) if found and album.left else None
    return Pair(row, words, pool_picture, _outline(pool, protected, h), protected_picture, warped)


def _thumbnail(image: Image | Picture, album: Album) -> Picture:
    return image if isinstance(image, Picture) else album.embed(shrink(image.pixels, SIDE_PX))


def _scaling(image: Image, small: Pixels) -> Array:
    """Maps pixels of the source image, of which homographies speak, to those of ``small``."""
    return np.diag([small.shape[1] / image.width, small.shape[0] / image.height, 1.0])


def _warp(pool: Image, protected: Image, h: Array) -> Pixels:
    """The pool image in the protected thumbnail's frame; first shrunk, so that the warp does not alias."""
    source, target = shrink(pool.pixels, 2 * SIDE_PX), shrink(protected.pixels, SIDE_PX)
    to_target = _scaling(protected, target) @ h @ np.linalg.inv(_scaling(pool, source))
    warped = cv2.warpPerspective(source, to_target, (target.shape[1], target.shape[0]), borderValue=BACKGROUND)
    return np.asarray(warped, dtype=np.uint8)


def _outline(pool: Image, protected: Image, h: Array) -> Outline | None:
    """None where the protected frame crosses the horizon."""
    small = shrink(pool.pixels, SIDE_PX)
    corners = project(_scaling(pool, small) @ np.linalg.inv(h), frame((protected.width, protected.height)))
    if corners is None:
        return None
    size = np.array([small.shape[1], small.shape[0]], dtype=np.float64)
    low = np.clip(corners.min(axis=0), -size, 0) - 2
    high = np.clip(corners.max(axis=0), size, 2 * size) + 2
    box = [*low, *(high - low)]
    return Outline(" ".join(f"{v:.1f}" for v in box), " ".join(f"{x:.1f},{y:.1f}" for x, y in corners))
