"""The transform between two sets of matched key points: every match proposes one, least squares refines the best.

A key point has a place, a size and an orientation, so one match fixes a similarity (Lowe, IJCV 2004, section 7.4):
no random sampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.compiled import compiled
from ssld_pipeline.copies.features.sift import KeyPoints
from ssld_pipeline.copies.geometry.homography import corners, longer_units, project, zoom
from ssld_pipeline.copies.geometry.hough_votes import MAX_ANGLE, Places, agreeing_with, count_agreeing

Affine = npt.NDArray[np.float64]

_REFINED_TOLERANCE = 0.012
_NUM_REFINED = 2
# Guided: how far from its predicted place a match may lie, at first and after refitting, as a share of the longer side.
_GUIDED_TOLERANCES = (0.03, 0.02, 0.012)
_MAX_GUIDED_LOG_SCALE = math.log(1.8)
_MIN_FOR_PERSPECTIVE = 12
# A picture seen so much from the side that its far edge is a sixteenth as large as the near one. Of nine copies folded
# to wedges that finds six more than a quarter does, and no other image is removed.
_MAX_FORESHORTENING = 16.0
_MIN_AGREEING = 4
_DISTINCT_CELL = 0.012
_MAX_ZOOM = 16.0
_MAX_STRETCH = 2.5
_CORNER_TOLERANCE = 0.08  # of the longer side


@dataclass(frozen=True)
class Transform:
    """``affine``: float64 [2, 3] from pool to protected positions, both in units of the longer side.

    ``inliers``: row numbers of the agreeing matches. ``num_inliers`` counts them at distinct positions.
    """

    affine: Affine
    inliers: npt.NDArray[np.int64]
    num_inliers: int

    @property
    def homography(self) -> Affine:
        """float64 [3, 3]: ``affine`` with its last row."""
        return np.vstack((self.affine, (0.0, 0.0, 1.0)))


def estimate_transform(left: Places, right: Places) -> Transform | None:
    """The transform most matches agree with; place i of the pool image matches place i of the protected one. None if
    none is sane."""
    if len(left) < _MIN_AGREEING:
        return None
    counts = count_agreeing(left, right)
    if counts.max() < _MIN_AGREEING:
        return None
    found = []
    for row in np.argsort(-counts, kind="stable")[:_NUM_REFINED]:
        affine, agree = np.empty((2, 3)), agreeing_with(left, right, row)
        if _refine(left, right, agree, left[row, 4] != right[row, 4], affine):
            inliers = np.flatnonzero(agree)
            found.append(Transform(affine, inliers, _count_distinct(left[inliers], right[inliers])))
    return max(found, key=lambda t: t.num_inliers, default=None)


@compiled
def _refine(left: Places, right: Places, agree: npt.NDArray[np.bool_], flipped: bool, affine: Affine) -> bool:
    """Writes the affine fitted to those that ``agree``, then to those that agree with it; False if none is sane."""
    found, fitted = False, np.empty((2, 3))
    for _ in range(3):
        if not _fit_affine(left, right, agree, fitted) or not _is_sane(fitted, flipped):
            break
        affine[:], found = fitted, True
        determinant = affine[0, 0] * affine[1, 1] - affine[0, 1] * affine[1, 0]
        tolerance = _REFINED_TOLERANCE * max(1.0, math.sqrt(abs(determinant)))
        for i in range(len(left)):
            error_x = affine[0, 0] * left[i, 0] + affine[0, 1] * left[i, 1] + affine[0, 2] - right[i, 0]
            error_y = affine[1, 0] * left[i, 0] + affine[1, 1] * left[i, 1] + affine[1, 2] - right[i, 1]
            near = error_x * error_x + error_y * error_y <= tolerance * tolerance
            agree[i] = near and (left[i, 4] != right[i, 4]) == flipped
    return found


@dataclass(frozen=True)
class Guided:
    """``homography``: float64 [3, 3] between positions in units of the longer sides. ``left``, ``right``: rows of the
    key points that it brings together, one to one; ``num_inliers`` counts them at distinct positions. Medians over
    them: ``error``, how far apart it leaves them, of the longer side of the image that is shown larger; ``distance``,
    Euclidean, of their descriptors."""

    homography: Affine
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    num_inliers: int
    error: float
    distance: float


def match_guided(
    start: Transform,
    pool: KeyPoints,
    protected: KeyPoints,
    distances: npt.NDArray[np.float32],
    max_distance: float,
) -> Guided:
    """All key points that ``start`` explains, found by place rather than by likeness alone, and the transform refitted.

    Mutual nearest neighbours lose what resembles something elsewhere in the picture, as text does; here a key point is
    compared with those near its predicted place. ``distances``: float32 [pool, protected], squared.
    """
    left, right = pool.places, protected.places
    homography, fitted = start.homography, np.zeros(0, np.int64)
    for tolerance in _GUIDED_TOLERANCES:
        matched = _match_near(homography, left, right, distances, max_distance**2, tolerance)
        if np.array_equal(matched, fitted):
            continue  # the same matches give the same transform
        rows = np.flatnonzero(matched >= 0)
        refitted = _refit(left[rows], right[matched[rows]], homography)
        if refitted is None:
            break
        homography, fitted = refitted, matched
    matched = _match_near(homography, left, right, distances, max_distance**2, _GUIDED_TOLERANCES[-1])
    rows = np.flatnonzero(matched >= 0)
    columns = matched[rows]
    inliers = left[rows], right[columns]
    distance = math.sqrt(np.median(distances[rows, columns])) if len(rows) else 0.0
    return Guided(homography, rows, columns, _count_distinct(*inliers), _median_error(homography, *inliers), distance)


def _median_error(homography: Affine, left: Places, right: Places) -> float:
    if not len(left):
        return 0.0
    places, depth = project(homography, left[:, :2])
    apart = np.hypot(places[:, 0] - right[:, 0], places[:, 1] - right[:, 1])
    return float(np.median(apart / np.maximum(zoom(homography, depth), 1)))


def _refit(left: Places, right: Places, start: Affine) -> Affine | None:
    """A perspective where enough matches fix one, else an affine; None where the result is not sane."""
    flipped = bool(np.linalg.det(start[:2, :2]) < 0)
    affine = fit_affine(left, right)
    if affine is None or not _is_sane(affine, flipped):
        return None
    if _count_distinct(left, right) >= _MIN_FOR_PERSPECTIVE:
        bent, _ = cv2.findHomography(left[:, :2], right[:, :2], 0)
        if bent is not None and _is_moderate(bent, left[:, :2]):
            return np.asarray(bent / bent[2, 2], np.float64)
    return np.vstack((affine, (0.0, 0.0, 1.0)))


def _is_moderate(homography: Affine, points: npt.NDArray[np.float64]) -> bool:
    """In front of the camera over the whole picture, and not too far away at one end for what is nearest."""
    depth = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]) @ homography[2]
    depth = np.concatenate((depth, np.column_stack((points, np.ones(len(points)))) @ homography[2]))
    return bool((depth * depth[0] > 0).all() and np.abs(depth).max() <= _MAX_FORESHORTENING * np.abs(depth).min())


@compiled
def _match_near(
    homography: Affine,
    left: Places,
    right: Places,
    distances: npt.NDArray[np.float32],
    max_distance: float,
    tolerance: float,
) -> npt.NDArray[np.int64]:
    """[len(left)]: the likest row of ``right`` near each predicted place, each taken once; -1 for none."""
    h = homography
    flip = h[0, 0] * h[1, 1] - h[0, 1] * h[1, 0] < 0
    matched = np.full(len(left), -1, np.int64)
    owner = np.full(len(right), -1, np.int64)
    for i in range(len(left)):
        depth = h[2, 0] * left[i, 0] + h[2, 1] * left[i, 1] + h[2, 2]
        if depth <= 1e-6:
            continue
        x = (h[0, 0] * left[i, 0] + h[0, 1] * left[i, 1] + h[0, 2]) / depth
        y = (h[1, 0] * left[i, 0] + h[1, 1] * left[i, 1] + h[1, 2]) / depth
        # The derivative of the homography carries the key point's axis along: its length and direction are predicted.
        cos, sin = math.cos(left[i, 3]), math.sin(left[i, 3])
        axis_x = ((h[0, 0] - x * h[2, 0]) * cos + (h[0, 1] - x * h[2, 1]) * sin) / depth
        axis_y = ((h[1, 0] - y * h[2, 0]) * cos + (h[1, 1] - y * h[2, 1]) * sin) / depth
        stretch = math.sqrt(axis_x * axis_x + axis_y * axis_y)
        reach = (tolerance * max(1.0, stretch)) ** 2
        log_size = left[i, 2] + math.log(max(stretch, 1e-9))
        angle = math.atan2(axis_y, axis_x)
        best = max_distance
        for j in range(len(right)):
            if (right[j, 0] - x) ** 2 + (right[j, 1] - y) ** 2 > reach or distances[i, j] > best:
                continue
            if (left[i, 4] != right[j, 4]) != flip or abs(right[j, 2] - log_size) > _MAX_GUIDED_LOG_SCALE:
                continue
            apart = abs(right[j, 3] - angle) % (2 * math.pi)
            if min(apart, 2 * math.pi - apart) > MAX_ANGLE:
                continue
            best, matched[i] = distances[i, j], j
        if matched[i] >= 0:
            other = owner[matched[i]]
            if other < 0 or distances[other, matched[i]] > best:
                owner[matched[i]] = i
                if other >= 0:
                    matched[other] = -1
            else:
                matched[i] = -1
    return matched


def fit_affine(left: Places, right: Places) -> Affine | None:
    """Least-squares affine [2, 3] from positions to positions, columns 0 and 1; None from fewer than three, or from one
    line."""
    affine = np.empty((2, 3))
    return affine if _fit_affine(left, right, np.ones(len(left), np.bool_), affine) else None


@compiled
def _fit_affine(left: Places, right: Places, chosen: npt.NDArray[np.bool_], affine: Affine) -> bool:
    """Writes the solution over the ``chosen`` rows; False where there is none."""
    num = chosen.sum()
    if num < 3:
        return False
    mean = np.zeros(4)
    for i in range(len(left)):
        if chosen[i]:
            mean += np.array((left[i, 0], left[i, 1], right[i, 0], right[i, 1]))
    mean /= num
    xx = xy = yy = xu = yu = xv = yv = 0.0
    for i in range(len(left)):
        if chosen[i]:
            x, y, u, v = left[i, 0] - mean[0], left[i, 1] - mean[1], right[i, 0] - mean[2], right[i, 1] - mean[3]
            xx, xy, yy = xx + x * x, xy + x * y, yy + y * y
            xu, yu, xv, yv = xu + x * u, yu + y * u, xv + x * v, yv + y * v
    determinant = xx * yy - xy * xy
    # Points off their common line by less than a ten-thousandth of their spread fix nothing across it.
    if determinant <= 1e-8 * (xx + yy) ** 2:
        return False
    for row, (x, y) in enumerate(((xu, yu), (xv, yv))):
        affine[row, 0], affine[row, 1] = (x * yy - y * xy) / determinant, (y * xx - x * xy) / determinant
        affine[row, 2] = mean[2 + row] - affine[row, 0] * mean[0] - affine[row, 1] * mean[1]
    return True


def is_whole(homography: Affine, pool_size: tuple[int, int], protected_size: tuple[int, int]) -> bool:
    """Does the whole pool image lie on the whole protected one, corner on corner, mirrored or turned or not?

    ``homography``: between positions in units of the longer sides; sizes are (width, height).
    """
    moved = np.empty((4, 2))
    if not _move_corners(homography, *longer_units(pool_size), moved):
        return False
    apart = np.linalg.norm(moved[:, None] - corners(longer_units(protected_size))[None], axis=2)
    return bool(apart.min(axis=1).max() < _CORNER_TOLERANCE and len(np.unique(apart.argmin(axis=1))) == 4)


def overlap(homography: Affine, pool_size: tuple[int, int], protected_size: tuple[int, int]) -> tuple[float, float]:
    """(share of the pool image, share of the protected one) that lie on each other; 1 where a corner lies behind the
    camera, since nothing can be said. Parameters as in ``is_whole``."""
    return _overlap(homography, *longer_units(pool_size), *longer_units(protected_size))


@compiled
def _overlap(
    homography: Affine, pool_width: float, pool_height: float, width: float, height: float
) -> tuple[float, float]:
    moved = np.empty((4, 2))
    if not _move_corners(homography, pool_width, pool_height, moved):
        return 1.0, 1.0
    common = _area(_clip(moved, width, height))
    return common / max(_area(moved), 1e-9), common / (width * height)


@compiled
def _move_corners(homography: Affine, width: float, height: float, moved: Affine) -> bool:
    """Writes where the four lie, [4, 2]; False where one lies behind the camera."""
    for i, (x, y) in enumerate(((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))):
        depth = homography[2, 0] * x + homography[2, 1] * y + homography[2, 2]
        if depth <= 0:
            return False
        for row in range(2):
            moved[i, row] = (homography[row, 0] * x + homography[row, 1] * y + homography[row, 2]) / depth
    return True


@compiled
def _clip(polygon: Affine, width: float, height: float) -> Affine:
    """The corners of the part of a convex polygon that lies in the rectangle from the origin to (width, height).

    Side after side (Sutherland and Hodgman, CACM 1974). OpenCV's intersectConvexConvex finds nothing in common where
    two outlines lie on each other, as a copy's does on its original.
    """
    for axis, sign, bound in ((0, 1.0, width), (0, -1.0, 0.0), (1, 1.0, height), (1, -1.0, 0.0)):
        kept = np.empty((2 * len(polygon), 2))
        num = 0
        for i in range(len(polygon)):
            here, after = polygon[i], polygon[(i + 1) % len(polygon)]
            beyond, then = sign * (here[axis] - bound), sign * (after[axis] - bound)
            if beyond <= 0:
                kept[num] = here
                num += 1
            if (beyond <= 0) != (then <= 0):
                kept[num] = here + beyond / (beyond - then) * (after - here)
                num += 1
        polygon = kept[:num]
    return polygon


@compiled
def _area(polygon: Affine) -> float:
    twice = 0.0
    for i in range(len(polygon)):
        here, after = polygon[i], polygon[(i + 1) % len(polygon)]
        twice += here[0] * after[1] - here[1] * after[0]
    return abs(twice) / 2


@compiled
def _is_sane(affine: Affine, flipped: bool) -> bool:
    """Mirrored as its matches say, and neither enlarged nor stretched beyond what makes a copy."""
    a, b, c, d = affine[0, 0], affine[0, 1], affine[1, 0], affine[1, 1]
    # The singular values of a 2x2 matrix are the sum and the difference of these.
    turned, mirrored = math.hypot(a + d, c - b) / 2, math.hypot(a - d, c + b) / 2
    largest, smallest = turned + mirrored, abs(turned - mirrored)
    if (mirrored > turned) != flipped or smallest <= 0:
        return False
    return bool(largest / smallest <= _MAX_STRETCH and smallest >= 1 / _MAX_ZOOM and largest <= _MAX_ZOOM)


@compiled
def _count_distinct(left: Places, right: Places) -> int:
    """Positions further apart than three pixels of 256, in both: several orientations of one point count once."""
    fewest = len(left)
    for places in (left, right):
        cells = np.empty(len(places), np.int64)
        for i in range(len(places)):
            cells[i] = math.floor(places[i, 0] / _DISTINCT_CELL) * (1 << 32) + math.floor(places[i, 1] / _DISTINCT_CELL)
        fewest = min(fewest, len(np.unique(cells)))
    return fewest
