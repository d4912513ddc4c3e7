"""Do the pixels agree? The pool image is warped onto the protected one and compared block by block.

Inlier counts alone call images with a common frame or watermark copies, at any threshold; blocks of pixels do not.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Homography = npt.NDArray[np.float64]

FRAME_SIDE_PX = 64
_BLOCK_SIDE_PX = 8
_BLOCKS_PER_SIDE = FRAME_SIDE_PX // _BLOCK_SIDE_PX
NUM_BLOCKS = _BLOCKS_PER_SIDE**2
# 0.5 on unsmoothed pixels, as first measured, let through outlines of other garments on the same floor; smoothing makes
# room for the stricter threshold.
_MIN_CORRELATION = 0.8
_SMOOTHING_PX = 0.7
_MIN_COVERED = 0.5
# Standard deviation in grey levels below which a block has no texture to compare.
_MIN_CONTRAST = 3.0
_MIN_INNER_BLOCKS = 6
# Scores in between are worth 2 ms of alignment: below nothing fits, above nothing is left to gain.
_ALIGNED_BETWEEN = (0.2, 0.9)
_ALIGNMENT_STEPS = 15

_INNER = np.zeros((_BLOCKS_PER_SIDE, _BLOCKS_PER_SIDE), np.bool_)
_INNER[1:-1, 1:-1] = True


class Agreement(NamedTuple):
    """``score``: how well the comparable blocks agree, in [0,1]. ``num_blocks``: how many are comparable (0 to 64).

    ``coverage``: share of the protected image that the pool image shows.
    """

    score: float
    num_blocks: int
    coverage: float


def protected_frame(grey: Grey) -> Grey:
    """uint8 [64, 64]: the whole image, its sides squeezed to the same length; what a pool image is compared with."""
    side = (FRAME_SIDE_PX, FRAME_SIDE_PX)
    return np.asarray(cv2.resize(grey, side, interpolation=cv2.INTER_AREA), np.uint8)


def compare_pixels(
    pool: Grey, frame: Grey, homography: Homography, protected_size: tuple[int, int]
) -> tuple[Agreement, Homography]:
    """How well ``pool`` agrees with the protected ``frame``, and the homography after alignment.

    ``homography``: float64 [3, 3] from pool to protected positions in units of the longer sides. ``protected_size``:
    (width, height) of the protected image, in any unit.
    """
    target = frame.astype(np.float32)
    warped, inside = warp_to_frame(pool, homography, protected_size)
    first = agree_in_blocks(warped, target, inside)
    if not _ALIGNED_BETWEEN[0] <= first.score < _ALIGNED_BETWEEN[1]:
        return first, homography
    aligned = _align(warped, target, inside, homography, protected_size)
    if aligned is None:
        return first, homography
    warped, inside = warp_to_frame(pool, aligned, protected_size)
    second = agree_in_blocks(warped, target, inside)
    return (second, aligned) if second.score > first.score else (first, homography)


def warp_to_frame(pool: Grey, homography: Homography, protected_size: tuple[int, int]) -> tuple[Floats, Mask]:
    """(float32 [64, 64], bool [64, 64]): the pool image in the protected frame, and where it has pixels."""
    to_pool = np.linalg.inv(_unit_to_frame(protected_size) @ homography)
    y, x = np.mgrid[:FRAME_SIDE_PX, :FRAME_SIDE_PX].astype(np.float64)
    depth = to_pool[2, 0] * x + to_pool[2, 1] * y + to_pool[2, 2]
    in_front = depth > 1e-6
    depth = np.where(in_front, depth, 1.0)
    source = np.stack([(to_pool[i, 0] * x + to_pool[i, 1] * y + to_pool[i, 2]) / depth for i in (0, 1)])
    height, width = pool.shape
    unit = np.array([width, height], np.float64) / max(width, height)
    inside = in_front & ((source >= 0) & (source < unit[:, None, None])).all(axis=0)
    small = _shrink(pool, _pool_pixels_per_step(source) * max(width, height))
    scale = np.array([small.shape[1], small.shape[0]]) / unit
    grid = (source * scale[:, None, None] - 0.5).astype(np.float32)
    warped = cv2.remap(small, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.float32), inside


def agree_in_blocks(left: Floats, right: Floats, inside: Mask) -> Agreement:
    """Agreement of two [64, 64] images where ``inside``: correlation above 0.8, block by block.

    A block without texture in both images says nothing and is left out; in one of them it is a disagreement. Of three
    figures the smallest counts: the share of all blocks that agree, that of the blocks off the edge (a shared frame is
    not enough), and the correlation of the blocks' means (a watermark on two flat grounds is not enough).
    """
    weights = _blocks(inside.astype(np.float32))
    count = weights.sum(axis=1)
    a, var_a, mean_a = _centred(_blocks(_smooth(left)), weights, count)
    b, var_b, mean_b = _centred(_blocks(_smooth(right)), weights, count)
    covariance = (a * b).sum(axis=1) / np.maximum(count, 1)
    agrees = covariance > _MIN_CORRELATION * np.sqrt(np.maximum(var_a * var_b, 1e-6))
    whole = count >= _MIN_COVERED * _BLOCK_SIDE_PX**2
    comparable = whole & (np.maximum(var_a, var_b) >= _MIN_CONTRAST**2)
    num_blocks = int(comparable.sum())
    if not num_blocks:
        return Agreement(0.0, 0, float(inside.mean()))
    score = min(float(agrees[comparable].mean()), _correlation(mean_a[whole], mean_b[whole]))
    inner = comparable & _INNER.ravel()
    if inner.sum() >= _MIN_INNER_BLOCKS:
        score = min(score, float(agrees[inner].mean()))
    return Agreement(score, num_blocks, float(inside.mean()))


def _align(
    warped: Floats, target: Floats, inside: Mask, homography: Homography, protected_size: tuple[int, int]
) -> Homography | None:
    """The homography that maximises the correlation of the pixels (Evangelidis and Psarakis, TPAMI 2008).

    None where it does not converge.
    """
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _ALIGNMENT_STEPS, 1e-3)
    start = np.eye(3, dtype=np.float32)
    try:
        _, found = cv2.findTransformECC(
            target, warped, start, cv2.MOTION_HOMOGRAPHY, criteria, inside.astype(np.uint8), 5
        )
    except cv2.error:
        return None
    to_frame = _unit_to_frame(protected_size)
    aligned = np.linalg.inv(found.astype(np.float64) @ to_frame) @ to_frame @ homography
    return np.asarray(aligned / aligned[2, 2], np.float64) if abs(aligned[2, 2]) > 1e-6 else None


def _unit_to_frame(protected_size: tuple[int, int]) -> Homography:
    """From positions in units of the longer side to pixels of the frame, centres at whole numbers."""
    x, y = (FRAME_SIDE_PX * max(protected_size) / side for side in protected_size)
    return np.array([[x, 0, -0.5], [0, y, -0.5], [0, 0, 1]])


def _pool_pixels_per_step(source: npt.NDArray[np.float64]) -> float:
    """Side of the pool area behind one pixel in the middle of the frame, in units of the pool's longer side."""
    middle = FRAME_SIDE_PX // 2
    across = source[:, middle, middle + 1] - source[:, middle, middle]
    down = source[:, middle + 1, middle] - source[:, middle, middle]
    return float(np.sqrt(abs(across[0] * down[1] - across[1] * down[0])))


def _shrink(grey: Grey, step: float) -> Grey:
    """Averages over ``step`` pixels first, or samples so far apart would alias."""
    if step <= 1:
        return grey
    size = max(1, round(grey.shape[1] / step)), max(1, round(grey.shape[0] / step))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _smooth(image: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _SMOOTHING_PX), np.float32)


def _blocks(image: Floats) -> Floats:
    """[64, 64]: one row per block."""
    n = _BLOCKS_PER_SIDE
    grid = image.reshape(n, _BLOCK_SIDE_PX, n, _BLOCK_SIDE_PX).transpose(0, 2, 1, 3)
    return grid.reshape(n * n, _BLOCK_SIDE_PX**2)


def _correlation(left: Floats, right: Floats) -> float:
    left, right = left - left.mean(), right - right.mean()
    return max(0.0, float((left * right).sum() / np.sqrt(max(float((left**2).sum() * (right**2).sum()), 1e-6))))


def _centred(blocks: Floats, weights: Floats, count: Floats) -> tuple[Floats, Floats, Floats]:
    """Blocks less their means, variances, means; each over the weighted pixels."""
    mean = (blocks * weights).sum(axis=1) / np.maximum(count, 1)
    centred = (blocks - mean[:, None]) * weights
    return centred, (centred**2).sum(axis=1) / np.maximum(count, 1), mean
