"""Edges of grey pictures: what is compared of them, and from what strength on a gradient is an edge."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_SMOOTHING_PX = 1.0
_MIN_GRADIENT = 0.6  # grey levels per pixel
_WEAK_GRADIENT = 0.1  # share of the image's 90th percentile: below it a gradient is no edge


def smooth(image: Floats) -> Floats:
    """What is compared of an image: without its pixel noise."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _SMOOTHING_PX), np.float32)


def gradients(image: Floats) -> tuple[Floats, Floats]:
    """Grey levels per pixel along x and y (Scharr)."""
    x, y = (cv2.Scharr(image, cv2.CV_32F, *axis, scale=1 / 32) for axis in ((1, 0), (0, 1)))
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def edge_limits(lengths: Floats) -> tuple[float, float]:
    """(weak, strong): gradients not longer than weak are no edge, those longer than strong weigh as much as strong."""
    strong = float(np.quantile(lengths, 0.9))
    return max(_MIN_GRADIENT, _WEAK_GRADIENT * strong), max(strong, 1.0)
