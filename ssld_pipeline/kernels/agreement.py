"""Which matches agree with each other? Each proposes a similarity, since a key point has place, size and orientation.

Lowe, IJCV 2004, section 7.4. No random sampling: every match of a group is tried.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ssld_pipeline.kernels.compiled import compiled

if TYPE_CHECKING:
    from ssld_pipeline.kernels.sift import KeyPoints

Places = npt.NDArray[np.float64]
"""[n, 5]: x, y, logarithm of the size, angle (radians), mirrored (0 or 1); units as in ``KeyPoints``."""
Counts = npt.NDArray[np.int64]

MAX_ANGLE = math.radians(30)
_TOLERANCE = 0.02  # of the protected image's longer side: 5 pixels of 256
_MAX_LOG_SCALE = math.log(1.6)


def match_places(points: KeyPoints) -> Places:
    log_sizes = np.log(np.maximum(points.sizes, 1e-9))
    return np.column_stack((points.positions, log_sizes, points.angles, points.mirrored)).astype(np.float64)


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
def _agrees(left: Places, right: Places, i: int, j: int) -> bool:
    """Does match j agree with the similarity that match i proposes?"""
    flip = left[i, 4] != right[i, 4]
    if flip != (left[j, 4] != right[j, 4]):
        return False
    log_i, log_j = right[i, 2] - left[i, 2], right[j, 2] - left[j, 2]
    if abs(log_j - log_i) > _MAX_LOG_SCALE:
        return False
    sign = -1.0 if flip else 1.0
    turn = right[i, 3] - sign * left[i, 3]
    apart = (right[j, 3] - sign * left[j, 3] - turn) % (2 * math.pi)
    if min(apart, 2 * math.pi - apart) > MAX_ANGLE:
        return False
    scale = math.exp(log_i)
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    # Mirrored matches: y is turned over first, then all is turned.
    dx, dy = left[j, 0] - left[i, 0], sign * (left[j, 1] - left[i, 1])
    error_x = cos * dx - sin * dy - (right[j, 0] - right[i, 0])
    error_y = sin * dx + cos * dy - (right[j, 1] - right[i, 1])
    # Where the pool image is shown enlarged, so is the error of its key points.
    return bool(error_x * error_x + error_y * error_y <= (_TOLERANCE * max(1.0, scale)) ** 2)


@compiled
def count_agreeing(left: Places, right: Places) -> Counts:
    """[n]: how many matches agree with each."""
    counts = np.zeros(len(left), np.int64)
    for i in range(len(left)):
        for j in range(len(left)):
            counts[i] += _agrees(left, right, i, j)
    return counts


@compiled
def agreeing_with(left: Places, right: Places, i: int) -> npt.NDArray[np.bool_]:
    """[n]: does match j agree with match i?"""
    agree = np.zeros(len(left), np.bool_)
    for j in range(len(left)):
        agree[j] = _agrees(left, right, i, j)
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
            for j in range(starts[group], starts[group + 1]):
                if sources[j] != last and _agrees(left, right, i, j):
                    count += 1
                    last = sources[j]
            best[group] = max(best[group], count)
    return best
