"""Edges of grey pictures: what is compared of them, and from what strength on a gradient is an edge."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.compiled import compiled

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_SMOOTHING_PX = 1.0
_MIN_GRADIENT = 0.6  # grey levels per pixel
_WEAK_GRADIENT = 0.1  # share of the image's 90th percentile: below it a gradient is no edge
_NUM_BUCKETS = 1024


class Edges(NamedTuple):
    """Grey levels per pixel along x and y, and their Euclidean length: float32, of the picture's shape."""

    x: Floats
    y: Floats
    length: Floats


class Overlaid:
    """Two grey pictures float32 [h, w] of which pixel lies on pixel; what is computed of them is computed once."""

    def __init__(self, pool: Floats, protected: Floats) -> None:
        self.pool, self.protected = pool, protected

    @cached_property
    def smooth_pool(self) -> Floats:
        return smooth(self.pool)

    @cached_property
    def smooth_protected(self) -> Floats:
        return smooth(self.protected)

    @cached_property
    def pool_edges(self) -> Edges:
        return find_edges(self.smooth_pool)

    @cached_property
    def protected_edges(self) -> Edges:
        return find_edges(self.smooth_protected)


def smooth(image: Floats) -> Floats:
    """What is compared of an image: without its pixel noise."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _SMOOTHING_PX), np.float32)


def find_edges(image: Floats) -> Edges:
    """Its gradients (Scharr)."""
    x, y = (cv2.Scharr(image, cv2.CV_32F, *axis, scale=1 / 32) for axis in ((1, 0), (0, 1)))
    return Edges(*(np.asarray(each, np.float32) for each in (x, y, cv2.magnitude(x, y))))


def edge_limits(lengths: Floats, where: Mask) -> tuple[float, float]:
    """(weak, strong): gradients not longer than weak are no edge, those longer than strong weigh as much as strong."""
    strong = quantile(lengths, where, 0.9)
    return max(_MIN_GRADIENT, _WEAK_GRADIENT * strong), max(strong, 1.0)


@compiled
def quantile(values: Floats, where: Mask, share: float) -> float:
    """NumPy's, linear, of the ``values``, at least 0, ``where`` they count; 0 of none. In a third of its time."""
    flat, counts = values.reshape(values.size), where.reshape(where.size)
    num, largest = 0, np.float32(0)
    for i in range(len(flat)):
        if counts[i]:
            num, largest = num + 1, max(largest, flat[i])
    if num == 0 or largest <= 0:
        return 0.0
    # Sorted are only those that share a bucket with one of the two values sought.
    to_bucket = np.float32(_NUM_BUCKETS - 1) / largest
    buckets = np.zeros(_NUM_BUCKETS, np.int64)
    for i in range(len(flat)):
        if counts[i]:
            buckets[int(flat[i] * to_bucket)] += 1
    place = share * (num - 1)
    rank = int(place)
    first, before = 0, 0
    while before + buckets[first] <= rank:
        before += buckets[first]
        first += 1
    last, total = first, before + buckets[first]
    while total <= min(rank + 1, num - 1):
        last += 1
        total += buckets[last]
    near = np.empty(total - before, np.float32)
    filled = 0
    for i in range(len(flat)):
        if counts[i] and first <= int(flat[i] * to_bucket) <= last:
            near[filled] = flat[i]
            filled += 1
    near.sort()
    low, high = near[rank - before], near[min(rank + 1, num - 1) - before]
    return float(low + (high - low) * (place - rank))
