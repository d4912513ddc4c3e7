"""By how much must a picture be shifted to look like itself again?"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_MIN_OVERLAP = 0.4
_PEAK_PX = 5
_COARSE_SIGMA = 0.06  # of the side: what varies more slowly is like itself at every small shift


def self_similar_shifts(frame: npt.NDArray[np.uint8], least: float, count: int) -> npt.NDArray[np.float64]:
    """float64 [<= count, 2]: the shifts (x, y), as shares of the side, with the highest correlation of ``frame`` [n, n]
    with itself, best first; none shorter than ``least``. Of a shift and its opposite one is given.

    The correlation is that of the pixels on which the frame and its shifted self lie.
    """
    side = len(frame)
    fine = frame - cv2.GaussianBlur(frame.astype(np.float32), (0, 0), _COARSE_SIGMA * side)
    correlation, overlap = _autocorrelation(fine.astype(np.float64))
    y, x = np.mgrid[-side + 1 : side, -side + 1 : side]
    allowed = (overlap >= _MIN_OVERLAP * side**2) & (np.hypot(x, y) >= least * side) & ((y > 0) | (y == 0) & (x > 0))
    highest = cv2.dilate(correlation, np.ones((_PEAK_PX, _PEAK_PX), np.uint8))
    peaks = np.flatnonzero(allowed & (correlation >= highest) & (correlation > 0))
    best = peaks[np.argsort(-correlation.ravel()[peaks], kind="stable")[:count]]
    return np.column_stack((x.ravel()[best], y.ravel()[best])).astype(np.float64) / side


def _autocorrelation(image: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(correlation, overlapping pixels), [2n - 1, 2n - 1], of the image [n, n] and itself at each shift, none first."""
    side = len(image)
    size = (2 * side, 2 * side)
    plain, squared, ones = (np.fft.rfft2(each, size) for each in (image, image**2, np.ones_like(image)))

    def at_each_shift(left: npt.NDArray[np.complex128], right: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
        sums = np.fft.fftshift(np.fft.irfft2(left * right.conj(), size))
        return np.asarray(sums[1:, 1:], np.float64)

    energy = np.maximum(at_each_shift(squared, ones), 0) * np.maximum(at_each_shift(ones, squared), 0)
    return at_each_shift(plain, plain) / np.sqrt(energy + 1.0), at_each_shift(ones, ones)
