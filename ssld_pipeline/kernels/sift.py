"""SIFT key points spread over the image, with mirror-canonical descriptors.

Lowe, IJCV 2004; the implementation is OpenCV's. Positions and sizes are in units of the image's longer side, with the
origin at its top left corner, so that they do not depend on the resolution at which the key points were found.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.kernels.mirror import canonical_descriptors

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# A low threshold: blurred, noisy and 48-pixel copies keep key points. Weak ones lose against strong ones of their cell.
_CONTRAST_THRESHOLD = 0.01
_GRID_CELLS = 8


@dataclass(frozen=True)
class KeyPoints:
    """n key points. ``mirrored``: the descriptor is stored in its mirrored form (see ``mirror``)."""

    positions: Floats
    """float32 [n, 2]: x, y in units of the longer side."""
    sizes: Floats
    """float32 [n]: diameter in units of the longer side."""
    angles: Floats
    """float32 [n]: orientation in radians, clockwise from +x (y points down)."""
    mirrored: npt.NDArray[np.bool_]
    descriptors: npt.NDArray[np.uint8]
    """uint8 [n, 128]."""

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, chosen: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> KeyPoints:
        return KeyPoints(*(getattr(self, f.name)[chosen] for f in fields(self)))


def resize_grey(pixels: npt.NDArray[np.uint8], max_side: int) -> Grey:
    """uint8 HxW whose longer side is at most ``max_side`` pixels (area average; smaller images keep their size)."""
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = max_side / max(height, width)
    if scale >= 1:
        return grey
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def detect_keypoints(grey: Grey, budget: int) -> KeyPoints:
    """At most ``budget`` key points, taken cell by cell so that overlaid text cannot use up the budget.

    Each of the 8x8 cells gives its strongest, then its second strongest, and so on until the budget is spent.
    """
    sift = cv2.SIFT.create(nfeatures=0, contrastThreshold=_CONTRAST_THRESHOLD)
    found = sift.detect(grey, None)
    if not found:
        return no_keypoints()
    places = np.array([(*p.pt, p.size, p.angle, p.response) for p in found], np.float32)
    chosen = spread_over_cells(places[:, :2], places[:, 4], (grey.shape[1], grey.shape[0]), budget)
    # compute() keeps the order of what it is given, and drops nothing that detect() found on the same image.
    kept, descriptors = sift.compute(grey, [found[i] for i in chosen])
    canonical, mirrored = canonical_descriptors(descriptors.astype(np.uint8))
    kept_places = np.array([(*p.pt, p.size, p.angle) for p in kept], np.float32)
    return _normalise(kept_places, max(grey.shape), mirrored, canonical)


def detect_at_scales(grey: Grey, budget: int, second_scale: float = 0.5) -> KeyPoints:
    """At most ``budget`` key points, two thirds from ``grey`` and the others from a smaller copy of it.

    The smaller copy gives the coarse key points that a thumbnail or a blurred copy still has.
    """
    smaller = resize_grey(grey, max(32, round(max(grey.shape) * second_scale)))
    coarse = detect_keypoints(smaller, budget // 3)
    return concatenate((detect_keypoints(grey, budget - len(coarse)), coarse))


def spread_over_cells(positions: Floats, responses: Floats, size: tuple[int, int], budget: int) -> npt.NDArray[np.intp]:
    """Row numbers of the at most ``budget`` chosen points, by rank within their cell, then by falling response."""
    cells = np.minimum((positions / np.array(size, np.float32) * _GRID_CELLS).astype(np.int64), _GRID_CELLS - 1)
    cell = cells[:, 1] * _GRID_CELLS + cells[:, 0]
    # Position and index break ties, so that equal responses fall in the same order every time.
    order = np.lexsort((positions[:, 0], positions[:, 1], -responses, cell))
    starts = np.searchsorted(cell[order], cell[order], side="left")
    rank = np.empty(len(cell), np.int64)
    rank[order] = np.arange(len(cell)) - starts
    return np.lexsort((positions[:, 0], positions[:, 1], -responses, rank))[:budget]


def concatenate(parts: tuple[KeyPoints, ...]) -> KeyPoints:
    return KeyPoints(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(KeyPoints)))


def no_keypoints() -> KeyPoints:
    empty = np.zeros(0, np.float32)
    return KeyPoints(np.zeros((0, 2), np.float32), empty, empty, np.zeros(0, np.bool_), np.zeros((0, 128), np.uint8))


def _normalise(
    places: Floats, longer_side: int, mirrored: npt.NDArray[np.bool_], descriptors: npt.NDArray[np.uint8]
) -> KeyPoints:
    # OpenCV puts the centre of the first pixel at 0; half a pixel moves the origin to the image's corner.
    positions = ((places[:, :2] + 0.5) / longer_side).astype(np.float32)
    sizes = (places[:, 2] / longer_side).astype(np.float32)
    return KeyPoints(positions, sizes, np.deg2rad(places[:, 3]).astype(np.float32), mirrored, descriptors)
