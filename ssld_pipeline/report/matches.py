"""The matched key points of a pair, found again from its two pictures: ``duplicates`` keeps their number alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.features.sift import KeyPoints, detect_keypoints
from ssld_pipeline.copies.geometry.homography import Size, longer_to_pixels
from ssld_pipeline.copies.geometry.match import mutual_nearest, squared_distances
from ssld_pipeline.copies.geometry.transform import Array, in_front
from ssld_pipeline.copies.geometry.verify_geometry import estimate_transform, match_guided

if TYPE_CHECKING:
    from ssld_pipeline.config.dedupe import DedupeConfig

# Of the longer side. Matches lie within 0.012 of the transform that the key points fix; the stored one
# has been aligned to the pixels after that.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Lines:
    """Row i of both is one inlier: x, y in units of each image's longer side, float64 [n, 2]."""

    pool: Array
    protected: Array

    def __len__(self) -> int:
        return len(self.pool)


NO_LINES = Lines(np.zeros((0, 2)), np.zeros((0, 2)))


def pool_keypoints(grey: npt.NDArray[np.uint8], config: DedupeConfig) -> KeyPoints:
    """Those that ``find_copies`` sees."""
    return detect_keypoints(grey, config.pool_keypoints)


def protected_keypoints(grey: npt.NDArray[np.uint8], config: DedupeConfig) -> KeyPoints:
    """Those that ``index_protected`` keeps."""
    return detect_keypoints(grey, config.protected_keypoints, coarse_share=1 / 3)


def find_lines(pool: KeyPoints, protected: KeyPoints, unit: Array, max_distance: float) -> Lines:
    """The inliers, matched as ``find_copies`` does, that ``unit`` (3x3, units of the longer sides) explains."""
    distances = squared_distances(pool.descriptors, protected.descriptors)
    left, right = mutual_nearest(distances, max_distance)
    start = estimate_transform(pool.places[left], protected.places[right])
    if start is None:
        return NO_LINES
    guided = match_guided(start, pool, protected, distances, max_distance)
    return explained(pool.positions[guided.left], protected.positions[guided.right], unit)


def explained(p: npt.NDArray[np.float32], q: npt.NDArray[np.float32], unit: Array) -> Lines:
    """The rows of which ``unit`` brings ``p`` to ``q``, within 2 % of the longer side."""
    left, right = p.astype(np.float64), q.astype(np.float64)
    predicted = in_front(unit, left) if len(left) else None
    if predicted is None:
        return NO_LINES
    zoom = float(np.sqrt(abs(np.linalg.det(unit[:2, :2] / unit[2, 2]))))
    near = np.linalg.norm(predicted - right, axis=1) <= _TOLERANCE * max(1.0, zoom)
    return Lines(left[near], right[near])


def unit_homography(h: Array, pool: Size, protected: Size) -> Array:
    """``h``, from pool to protected pixels (centres at whole numbers), in units of the longer sides."""
    return np.asarray(np.linalg.inv(longer_to_pixels(protected)) @ h @ longer_to_pixels(pool))
