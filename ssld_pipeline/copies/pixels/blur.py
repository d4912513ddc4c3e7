"""How a picture was blurred: out of focus, or by a camera that moved.

A blurred copy has lost the edges by which it would be known. Where it is known how it was blurred, the protected
picture is blurred likewise, and both show the same again. Two pictures do not, but where they differ in no more than
the blur has taken.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np

from ssld_pipeline.copies.pixels.edges import Floats, Mask, Overlaid

# In pixels of pictures of 128: of a Gaussian its sigma, of a straight movement its length.
_SIGMAS = (1.2, 1.7, 2.4, 3.4, 4.8)
_LENGTHS = (4, 6, 9, 13, 19)
_DIRECTIONS = 12
# Of 60 strongly blurred copies all correlate to .56 or more with the sharp original.
_MIN_CORRELATION = 0.5


def likely_blur(pictures: Overlaid, inside: Mask) -> Floats | None:
    """The kernel, float32 [n, n] of sum 1, that makes the protected picture most like the pool image where ``inside``.

    None where none makes it more like it, where they are too unlike as they are, and where the pool image has as much
    detail for its contrast as the protected one. Pictures are square; their side is even, and at least 32 pixels.
    """
    pool, pool_contrast = _centred(pictures.pool, inside)
    protected, protected_contrast = _centred(pictures.protected, inside)
    if not min(pool_contrast, protected_contrast) or _correlation(pool, protected) < _MIN_CORRELATION:
        return None
    detail, own_detail = (
        edges.length[inside].mean() / contrast
        for edges, contrast in ((pictures.pool_edges, pool_contrast), (pictures.protected_edges, protected_contrast))
    )
    if detail >= own_detail:
        return None
    transfer, squared = _transfers(len(inside))
    # By Parseval's theorem: what each would correlate to, without blurring any.
    left, right = np.fft.rfft2(pool), np.fft.rfft2(protected)
    twice = np.full(left.shape[1], 2.0, np.float32)
    twice[[0, -1]] = 1  # the other half of the spectrum mirrors all columns but these
    common = transfer @ (twice * (left.conj() * right).real).ravel()
    energy = squared @ (twice * np.abs(right) ** 2).ravel()
    best = int(np.argmax(common / np.sqrt(np.maximum(energy, 1e-6))))
    return blur_kernels()[best] if best else None


def _centred(picture: Floats, inside: Mask) -> tuple[Floats, float]:
    """(the picture less its mean, 0 outside; its standard deviation)."""
    values = picture[inside]
    if not len(values):
        return np.zeros_like(picture), 0.0
    return np.where(inside, picture - values.mean(), np.float32(0)), float(values.std())


def _correlation(a: Floats, b: Floats) -> float:
    return float((a * b).sum() / math.sqrt(float((a * a).sum()) * float((b * b).sum())))


@cache
def blur_kernels() -> list[Floats]:
    """The first changes nothing."""
    moved = [_movement(length, math.pi * k / _DIRECTIONS) for length in _LENGTHS for k in range(_DIRECTIONS)]
    return [np.ones((1, 1), np.float32), *map(_gaussian, _SIGMAS), *moved]


def _gaussian(sigma: float) -> Floats:
    line = cv2.getGaussianKernel(2 * math.ceil(3 * sigma) + 1, sigma, cv2.CV_32F)
    return np.asarray(line @ line.T, np.float32)


def _movement(length: float, angle: float) -> Floats:
    """Straight, at even speed; ``angle`` in radians from +x.

    ``alterations`` smears by other means: copies made with the kernels that are looked for would prove little.
    """
    side = 2 * math.ceil(length / 2) + 3
    kernel = np.zeros((side, side), np.float32)
    along = np.linspace(-length / 2, length / 2, 8 * math.ceil(length) + 1)
    x, y = side // 2 + along * math.cos(angle), side // 2 + along * math.sin(angle)
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = x - column, y - row
    for i, j, share in (
        (0, 0, (1 - down) * (1 - right)),
        (0, 1, (1 - down) * right),
        (1, 0, down * (1 - right)),
        (1, 1, down * right),
    ):
        np.add.at(kernel, (row + i, column + j), share.astype(np.float32))
    return np.asarray(kernel / kernel.sum(), np.float32)


@cache
def _transfers(side: int) -> tuple[Floats, Floats]:
    """[kernels, side * (side // 2 + 1)]: by how much each changes each frequency, and its square.

    Each kernel equals itself turned by half, so that it moves nothing and these are real.
    """
    rows = []
    for kernel in blur_kernels():
        padded = np.zeros((side, side), np.float32)
        padded[: len(kernel), : len(kernel)] = kernel
        middle = len(kernel) // 2
        rows.append(np.fft.rfft2(np.roll(padded, (-middle, -middle), (0, 1))).real.ravel())
    transfer = np.stack(rows).astype(np.float32)
    return transfer, transfer * transfer
