"""Which matches agree with each other? Each proposes a similarity, since a key point has place, size and orientation.

Lowe, IJCV 2004, section 7.4. No random sampling: every match of a group is tried.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.compiled import compiled

Places = npt.NDArray[np.float64]
"""[n, 5]: x, y, logarithm of the size, angle (radians), mirrored (0 or 1); units as in ``sift.KeyPoints``."""
Counts = npt.NDArray[np.int64]

MAX_ANGLE = math.radians(30)
_TOLERANCE = 0.02  # of the protected image's longer side: 5 pixels of 256
_MAX_LOG_SCALE = math.log(1.6)


def to_places(
    positions: npt.NDArray[np.float32],
    sizes: npt.NDArray[np.float32],
    angles: npt.NDArray[np.float32],
    mirrored: npt.NDArray[np.bool_],
) -> Places:
    """Of n key points, in the units of ``sift.KeyPoints``."""
    return np.column_stack((positions, np.log(np.maximum(sizes, 1e-9)), angles, mirrored)).astype(np.float64)


def rank_by_agreement(
    left: Places, right: Places, sources: Counts, images: Counts, min_agreeing: int
) -> tuple[Counts, Counts]:
    """(images, agreeing): images whose matches agree best with one transform, by falling number, then by image.

    Match i is of pool key point ``sources[i]`` with a key point of ``images[i]``, at ``left[i]`` and ``right[i]``. A
    pool key point counts once, however many of its neighbours lie in the image.
    """
    order = np.lexsort((sources, images))
    starts = np.flatnonzero(np.diff(images[order], prepend=-1, append=-1))
    if len(starts) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    counts = _largest_agreement(left[order], right[order], sources[order], starts, min_agreeing)
    found = images[order][starts[:-1]]
    best = np.lexsort((found, -counts))
    best = best[counts[best] >= min_agreeing]
    return found[best], counts[best]


@compiled
def _similarity(left: Places, right: Places, i: int) -> tuple[float, float, float, float, float, float]:
    """What match i proposes: x' = cos x - sin y, y' = sin x + cos y after y is multiplied by ``sign``, -1 for mirrored
    matches; logarithm of the scale, the turn, and how far off a match may be that agrees."""
    sign = -1.0 if left[i, 4] != right[i, 4] else 1.0
    log_scale, turn = right[i, 2] - left[i, 2], right[i, 3] - sign * left[i, 3]
    scale = math.exp(log_scale)
    # Where the pool image is shown enlarged, so is the error of its key points.
    return scale * math.cos(turn), scale * math.sin(turn), sign, log_scale, turn, _TOLERANCE * max(1.0, scale)


@compiled
def _agrees(
    left: Places, right: Places, i: int, similarity: tuple[float, float, float, float, float, float], j: int
) -> bool:
    """Does match j agree with what match i proposes?"""
    cos, sin, sign, log_scale, turn, tolerance = similarity
    dx, dy = left[j, 0] - left[i, 0], sign * (left[j, 1] - left[i, 1])
    error_x = cos * dx - sin * dy - (right[j, 0] - right[i, 0])
    error_y = sin * dx + cos * dy - (right[j, 1] - right[i, 1])
    if error_x * error_x + error_y * error_y > tolerance * tolerance:
        return False
    if (left[j, 4] != right[j, 4]) != (sign < 0) or abs(right[j, 2] - left[j, 2] - log_scale) > _MAX_LOG_SCALE:
        return False
    apart = (right[j, 3] - sign * left[j, 3] - turn) % (2 * math.pi)
    return bool(min(apart, 2 * math.pi - apart) <= MAX_ANGLE)


@compiled
def count_agreeing(left: Places, right: Places) -> Counts:
    """[n]: how many matches agree with each."""
    counts = np.zeros(len(left), np.int64)
    for i in range(len(left)):
        similarity = _similarity(left, right, i)
        for j in range(len(left)):
            counts[i] += _agrees(left, right, i, similarity, j)
    return counts


@compiled
def agreeing_with(left: Places, right: Places, i: int) -> npt.NDArray[np.bool_]:
    """[n]: does match j agree with match i?"""
    agree = np.zeros(len(left), np.bool_)
    similarity = _similarity(left, right, i)
    for j in range(len(left)):
        agree[j] = _agrees(left, right, i, similarity, j)
    return agree


@compiled
def _largest_agreement(left: Places, right: Places, sources: Counts, starts: Counts, min_agreeing: int) -> Counts:
    """Per group of matches [starts[g], starts[g + 1]): how many distinct sources agree with its best match."""
    best = np.zeros(len(starts) - 1, np.int64)
    for group in range(len(best)):
        if starts[group + 1] - starts[group] < min_agreeing:
            continue
        for i in range(starts[group], starts[group + 1]):
            count, last = 0, -1
            similarity = _similarity(left, right, i)
            for j in range(starts[group], starts[group + 1]):
                if sources[j] != last and _agrees(left, right, i, similarity, j):
                    count += 1
                    last = sources[j]
            best[group] = max(best[group], count)
    return best
