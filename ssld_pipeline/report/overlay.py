"""Two pictures side by side in one drawing: where each lies, its outline in the other, the lines between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ssld_pipeline.copies.geometry.homography import Size, corners
from ssld_pipeline.copies.geometry.transform import Array, in_front
from ssld_pipeline.report.matches import Lines

SLOT_PX = 160
GAP_PX = 24
VIEW_BOX = f"0 0 {2 * SLOT_PX + GAP_PX} {SLOT_PX}"
MAX_LINES = 32
NUM_COLOURS = 6
_WHOLE = 0.985


@dataclass(frozen=True)
class Place:
    """A picture's box in the drawing, and the polygon within it that the other picture shows, where that is not all."""

    x: float
    y: float
    width: float
    height: float
    polygon: str = ""


@dataclass(frozen=True)
class Overlay:
    """``paths``: the lines of each colour as SVG path data, from the pool image to the other. ``num_drawn`` of
    ``num_matched`` lines are drawn, evenly over the protected image's height."""

    pool: Place
    protected: Place
    paths: tuple[str, ...]
    num_drawn: int
    num_matched: int

    @property
    def num_bytes(self) -> int:
        return sum(40 + len(path) for path in self.paths) + len(self.pool.polygon) + len(self.protected.polygon)


def overlay(pool: Size, protected: Size, h: Array | None, lines: Lines) -> Overlay:
    """``pool``, ``protected``: sizes of the sources, pixels; ``h``: from pool to protected pixels, None for none."""
    left, right = _box(pool, 0), _box(protected, SLOT_PX + GAP_PX)
    order = np.argsort(lines.protected[:, 1], kind="stable")
    drawn = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), MAX_LINES)).round().astype(int))]
    starts = lines.pool[drawn] * SLOT_PX + (left.x, left.y)
    ends = lines.protected[drawn] * SLOT_PX + (right.x, right.y)
    groups = np.array_split(np.arange(len(drawn)), NUM_COLOURS)
    paths = tuple(_path(starts[group], ends[group]) for group in groups)
    if h is not None:
        left = _outlined(left, pool, np.asarray(np.linalg.inv(h), np.float64), protected)
        right = _outlined(right, protected, h, pool)
    return Overlay(left, right, paths, len(drawn), len(lines))


def _box(size: Size, x: float) -> Place:
    """In the middle of its slot, the longer side as long as the slot's."""
    width, height = (SLOT_PX * side / max(size) for side in size)
    return Place(
        round(x + (SLOT_PX - width) / 2, 1), round((SLOT_PX - height) / 2, 1), round(width, 1), round(height, 1)
    )


def _outlined(box: Place, size: Size, to_here: Array, other: Size) -> Place:
    """With what the other picture shows of this one; without it where that is all, nothing, or crosses the horizon."""
    outline = in_front(to_here, corners(other))
    if outline is None:
        return box
    area, shared = cv2.intersectConvexConvex(outline.astype(np.float32), corners(size).astype(np.float32))
    if shared is None or area > _WHOLE * size[0] * size[1]:
        return box
    points = shared[:, 0] * (SLOT_PX / max(size)) + (box.x, box.y)
    return replace(box, polygon=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))


def _path(starts: Array, ends: Array) -> str:
    return "".join(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for (a, b), (c, d) in zip(starts, ends, strict=True))
