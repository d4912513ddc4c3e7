"""SIFT key points spread over the image, with mirror-canonical descriptors.

Lowe, IJCV 2004; the implementation is OpenCV's. Positions and sizes are in units of the image's longer side, with the
origin at its top left corner, so that they do not depend on the resolution at which the key points were found.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.features.mirror import canonical_descriptors
from ssld_pipeline.copies.features.scale_space import BASE_SIGMA, NUM_LAYERS, Blobs, find_blobs, gaussian_pyramid
from ssld_pipeline.copies.features.sift_descriptor import describe, orient
from ssld_pipeline.copies.geometry.hough_votes import Places, to_places

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# A low threshold: blurred, noisy and 48-pixel copies keep key points. Weak ones lose against strong ones of their cell.
_CONTRAST_THRESHOLD = 0.01
_GRID_CELLS = 8
# Small images at twice their size, or their smallest blobs would be lost.
_DOUBLED_BELOW_PX = 200
# With fewer blobs than this an image shows little, a bird in the sky; at twice its size it has 3 to 9 times as many. Of
# photographs of clothing 3 % have fewer than 60, 17 % fewer than 100, which found no more copies.
_FEW_BLOBS = 60


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

    @cached_property
    def places(self) -> Places:
        """What is compared of them but for their descriptors."""
        return to_places(self.positions, self.sizes, self.angles, self.mirrored)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, chosen: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> KeyPoints:
        return KeyPoints(*(getattr(self, f.name)[chosen] for f in fields(self)))


def resize_grey(pixels: npt.NDArray[np.uint8], max_side: int, enlarge: bool = False) -> Grey:
    """uint8 HxW whose longer side is at most ``max_side`` pixels (area average); smaller images keep their size,
    unless they are to be enlarged to it."""
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = max_side / max(height, width)
    if scale >= 1 and not enlarge:
        return grey
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8)


class Chosen(NamedTuple):
    """Blobs of an image, ``order`` [n] being the rows of those that are to be key points, the best first."""

    pyramid: list[Floats]
    blobs: Blobs
    order: npt.NDArray[np.intp]


def detect_keypoints(grey: Grey, budget: int, coarse_share: float = 0.0) -> KeyPoints:
    """At most ``budget`` key points, of the blobs that ``choose_blobs`` gives."""
    return describe_blobs(choose_blobs(grey, budget, coarse_share), slice(None), budget)


def choose_blobs(grey: Grey, num: int, coarse_share: float = 0.0) -> Chosen:
    """At most ``num`` blobs, taken cell by cell so that overlaid text cannot use them up.

    Each of the 8x8 cells gives its strongest, then its second strongest, and so on. ``coarse_share`` of them are such
    as an image of half the size would have, too, and come first.
    """
    is_small = max(grey.shape) <= _DOUBLED_BELOW_PX
    pyramid, blobs = _find_blobs(_doubled(grey) if is_small else grey)
    if len(blobs.octaves) < _FEW_BLOBS and not is_small:
        pyramid, blobs = _find_blobs(_doubled(grey))
        coarse_share = 1.0  # those that the image has at its own size come first
    size = pyramid[0].shape[2], pyramid[0].shape[1]
    positions = blobs.places[:, :2] * np.exp2(blobs.octaves)[:, None].astype(np.float32)
    coarse = np.flatnonzero(blobs.octaves > 0)[: None if coarse_share else 0]
    kept = coarse[spread_over_cells(positions[coarse], blobs.responses[coarse], size, round(coarse_share * num))]
    others = np.delete(np.arange(len(positions)), kept)
    rest = others[spread_over_cells(positions[others], blobs.responses[others], size, num - len(kept))]
    return Chosen(pyramid, blobs, np.concatenate((kept, rest)))


def _find_blobs(grey: Grey) -> tuple[list[Floats], Blobs]:
    pyramid = gaussian_pyramid(grey)
    return pyramid, find_blobs(pyramid, _CONTRAST_THRESHOLD)


def _doubled(grey: Grey) -> Grey:
    height, width = grey.shape
    return np.asarray(cv2.resize(grey, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR), np.uint8)


def describe_blobs(chosen: Chosen, which: slice, budget: int) -> KeyPoints:
    """At most ``budget`` key points of the chosen blobs ``which``; one with two orientations counts twice."""
    pyramid, blobs, order = chosen
    rows = order[which]
    if not len(rows):
        return no_keypoints()
    angles = np.zeros((len(rows), 2), np.float32)
    counts = np.zeros(len(rows), np.int64)
    places, octaves = blobs.places[rows], blobs.octaves[rows]
    for octave in np.unique(octaves):
        at = octaves == octave
        angles[at], counts[at] = orient(pyramid[octave], places[at])
    # By the second orientation first, so that a cut budget loses second orientations.
    kept = np.concatenate((np.flatnonzero(counts > 0), np.flatnonzero(counts > 1)))[:budget]
    turned = np.concatenate((angles[counts > 0, 0], angles[counts > 1, 1]))[:budget]
    places, octaves = places[kept], octaves[kept]
    descriptors = np.empty((len(kept), 128), np.uint8)
    for octave in np.unique(octaves):
        at = octaves == octave
        descriptors[at] = describe(pyramid[octave], places[at], turned[at])
    canonical, mirrored = canonical_descriptors(descriptors)
    scale, longer_side = np.exp2(octaves).astype(np.float32), max(pyramid[0].shape[1:])
    # A pixel's centre lies at a whole number; half a pixel moves the origin to the image's corner.
    positions = (places[:, :2] * scale[:, None] + np.float32(0.5)) / np.float32(longer_side)
    sizes = 2 * BASE_SIGMA * np.exp2(places[:, 2] / NUM_LAYERS) * scale / longer_side
    return KeyPoints(positions, sizes.astype(np.float32), turned, mirrored, canonical)


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
