"""Do the pixels agree? The pool image is warped onto the protected one and compared block by block.

Inlier counts alone call images with a common frame or watermark copies, at any threshold; blocks of pixels do not.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]

FRAME_SIDE_PX = 64
_BLOCK_SIDE_PX = 8
_MIN_CORRELATION = 0.5
_MIN_COVERED = 0.5
# Standard deviation in grey levels below which a block has no texture to compare.
_MIN_CONTRAST = 3.0


class Agreement(NamedTuple):
    """``score``: share of the comparable blocks that agree. ``num_blocks``: how many are comparable (0 to 64).

    ``covered``: share of the protected image that the pool image covers.
    """

    score: float
    num_blocks: int
    covered: float


def protected_frame(grey: Grey) -> Grey:
    """uint8 [64, 64]: the whole image, its sides squeezed to the same length; what a pool image is compared with."""
    return cv2.resize(grey, (FRAME_SIDE_PX, FRAME_SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def compare_pixels(
    pool: Grey, frame: Grey, affine: npt.NDArray[np.float64], protected_size: tuple[int, int]
) -> Agreement:
    """``pool`` against the protected ``frame`` under ``affine`` (unit positions, pool to protected).

    ``protected_size``: (width, height) of the protected image, in any unit.
    """
    warped, inside = warp_to_frame(pool, affine, protected_size)
    return agree_in_blocks(warped, frame.astype(np.float32), inside)


def warp_to_frame(
    pool: Grey, affine: npt.NDArray[np.float64], protected_size: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(float32 [64, 64], bool [64, 64]): the pool image in the protected frame, and where it has pixels."""
    to_pool = np.linalg.inv(np.vstack((affine, (0, 0, 1))))
    extent = np.array(protected_size, np.float64) / max(protected_size) / FRAME_SIDE_PX
    centres = np.arange(FRAME_SIDE_PX) + 0.5
    x, y = np.meshgrid(centres * extent[0], centres * extent[1])
    source = np.stack([to_pool[i, 0] * x + to_pool[i, 1] * y + to_pool[i, 2] for i in (0, 1)])
    height, width = pool.shape
    unit = np.array([width, height], np.float64) / max(width, height)
    inside = ((source >= 0) & (source < unit[:, None, None])).all(axis=0)
    # One step of the frame is this many pool pixels: average over them first, or the samples would alias.
    step = np.sqrt(abs(np.linalg.det(to_pool[:2, :2])) * extent.prod()) * max(width, height)
    small = _shrink(pool, float(step))
    scale = np.array([small.shape[1], small.shape[0]]) / unit
    grid = (source * scale[:, None, None] - 0.5).astype(np.float32)
    warped = cv2.remap(small, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return warped.astype(np.float32), inside


def agree_in_blocks(
    left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]
) -> Agreement:
    """Agreement of two [64, 64] images where ``inside``: correlation above 0.5, block by block.

    A block without texture in both images says nothing and is left out; in one of them it is a disagreement.
    """
    weights = _blocks(inside.astype(np.float32))
    count = weights.sum(axis=1)
    a, var_a = _centred(_blocks(left), weights, count)
    b, var_b = _centred(_blocks(right), weights, count)
    covariance = (a * b).sum(axis=1) / np.maximum(count, 1)
    correlation = covariance / np.sqrt(np.maximum(var_a * var_b, 1e-6))
    whole = count >= _MIN_COVERED * _BLOCK_SIDE_PX**2
    comparable = whole & (np.maximum(var_a, var_b) >= _MIN_CONTRAST**2)
    num_blocks = int(comparable.sum())
    score = float((correlation[comparable] > _MIN_CORRELATION).mean()) if num_blocks else 0.0
    return Agreement(score, num_blocks, float(inside.mean()))


def _shrink(grey: Grey, step: float) -> Grey:
    if step <= 1:
        return grey
    size = max(1, round(grey.shape[1] / step)), max(1, round(grey.shape[0] / step))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _blocks(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[64, 64]: one row per block."""
    n = FRAME_SIDE_PX // _BLOCK_SIDE_PX
    grid = image.reshape(n, _BLOCK_SIDE_PX, n, _BLOCK_SIDE_PX).transpose(0, 2, 1, 3)
    return grid.reshape(n * n, _BLOCK_SIDE_PX**2)


def _centred(
    blocks: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], count: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    mean = (blocks * weights).sum(axis=1) / np.maximum(count, 1)
    centred = (blocks - mean[:, None]) * weights
    return centred, (centred**2).sum(axis=1) / np.maximum(count, 1)
