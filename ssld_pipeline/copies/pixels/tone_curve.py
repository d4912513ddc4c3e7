"""Does one tone curve turn one picture into the other, except where something was drawn over it?

Text, stickers and scribbles take away the correlation of every block that they touch, and put edges everywhere. What
they leave free keeps its grey levels up to one curve for the whole picture, be it darkened, tinted or inverted. Another
picture under the same watermark shares its strokes, not the grey levels between them.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.compiled import compiled
from ssld_pipeline.copies.pixels.edges import Floats, Mask, Overlaid

_WINDOW = (17, 17)
_MIN_CONTRAST = 5.0  # standard deviation in grey levels: on flat ground every curve fits
_MIN_PIXELS = 300
_MAX_ERROR = 10  # grey levels
_LEVELS_PER_STEP = 8  # grey levels of the pool image that share one value of the curve


def explained_share(pictures: Overlaid, inside: Mask) -> float:
    """Share of the protected picture within 10 grey levels of the best curve over the pool image, beyond what one grey
    explains.

    All are [128, 128]; of the protected picture counts what has contrast and lies ``inside``. 1: all of it; 0: no more
    than one grey does, or too little to tell.
    """
    left, right = pictures.smooth_pool, pictures.smooth_protected
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    mean = cv2.boxFilter(right, -1, _WINDOW)
    counts = inside & (cv2.boxFilter(right * right, -1, _WINDOW) - mean * mean > _MIN_CONTRAST**2)
    num = int(counts.sum())
    if num < _MIN_PIXELS:
        return 0.0
    by_curve, by_one = _num_explained(_levels(left[counts]), _levels(right[counts]))
    return max(0, by_curve - by_one) / max(num - by_one, 1)


def _levels(values: Floats) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@compiled
def _num_explained(pool: npt.NDArray[np.uint8], protected: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """How many of ``protected`` lie near the median of those where ``pool`` is alike; and near that of all."""
    counts = np.zeros((256 // _LEVELS_PER_STEP + 1, 256), np.int64)
    for i in range(len(pool)):
        counts[pool[i] // _LEVELS_PER_STEP, protected[i]] += 1
        counts[-1, protected[i]] += 1
    near = np.zeros(len(counts), np.int64)
    for row in range(len(counts)):
        total, seen, median = counts[row].sum(), 0, 0
        while total and 2 * seen < total:
            seen += counts[row, median]
            median += 1
        for level in range(max(0, median - 1 - _MAX_ERROR), min(256, median + _MAX_ERROR)):
            near[row] += counts[row, level]
    return near[:-1].sum(), near[-1]
