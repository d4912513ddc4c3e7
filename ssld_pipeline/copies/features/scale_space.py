"""Blobs of an image at all sizes: extrema of its difference-of-Gaussians pyramid (Lowe, IJCV 2004, sections 3 and 4).

Constants are those of OpenCV's SIFT but for the first octave, which is the image itself: doubling it quadruples the
time, and a larger image of real pixels costs less for the same detail.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.compiled import compiled

Floats = npt.NDArray[np.float32]

NUM_LAYERS = 3
"""Sizes per octave at which blobs are looked for."""
BASE_SIGMA = 1.6
_CAMERA_SIGMA = 0.5
_MIN_OCTAVE_SIDE_PX = 12
_BORDER_PX = 5
_MAX_EDGE_RATIO = 10.0
_MAX_STEPS = 5


class Blobs(NamedTuple):
    """n extrema. ``places``: float32 [n, 3], x and y in pixels of the octave's image, and the layer, refined.

    ``octaves``: int64 [n]. ``responses``: float32 [n], contrast in [0,1].
    """

    places: Floats
    octaves: npt.NDArray[np.int64]
    responses: Floats


def gaussian_pyramid(grey: npt.NDArray[np.uint8]) -> list[Floats]:
    """float32 [NUM_LAYERS + 3, h, w] per octave, each half the size of the one before."""
    image = grey.astype(np.float32)
    _blur(image, float(np.sqrt(BASE_SIGMA**2 - _CAMERA_SIGMA**2)), image)
    octaves = []
    while True:
        stack = np.empty((NUM_LAYERS + 3, *image.shape), np.float32)
        stack[0] = image
        for layer in range(1, NUM_LAYERS + 3):
            _blur(stack[layer - 1], _added_sigma(layer), stack[layer])
        octaves.append(stack)
        # The layer of twice the sigma, every second pixel: it needs no further smoothing.
        image = np.ascontiguousarray(stack[NUM_LAYERS, ::2, ::2])
        if min(image.shape) < _MIN_OCTAVE_SIDE_PX:
            return octaves


def find_blobs(pyramid: list[Floats], min_contrast: float) -> Blobs:
    """All extrema of at least this contrast (grey range 1) that do not lie on an edge."""
    places, octaves, responses = [], [], []
    for octave, stack in enumerate(pyramid):
        found = _extrema(stack, min_contrast)
        places.append(found[:, :3])
        responses.append(found[:, 3])
        octaves.append(np.full(len(found), octave, np.int64))
    return Blobs(np.concatenate(places), np.concatenate(octaves), np.concatenate(responses))


def _added_sigma(layer: int) -> float:
    step = 2 ** (1 / NUM_LAYERS)
    return float(BASE_SIGMA * step ** (layer - 1) * np.sqrt(step**2 - 1))


def _blur(image: Floats, sigma: float, out: Floats) -> None:
    # Three sigma to each side: the rest of the kernel weighs 0.3 % and takes a quarter of the time.
    side = 2 * int(np.ceil(3 * sigma)) + 1
    cv2.GaussianBlur(image, (side, side), sigma, dst=out, borderType=cv2.BORDER_REFLECT_101)


@compiled
def _refine(stack: Floats, layer: int, y: int, x: int, min_contrast: float) -> tuple[float, float, float, float]:
    """(x, y, layer, contrast) of the quadratic through the neighbourhood; contrast 0 where it is refused."""
    num_layers, height, width = len(stack) - 1, stack.shape[1], stack.shape[2]
    nothing = (0.0, 0.0, 0.0, 0.0)
    near = np.empty((3, 3, 3), np.float32)
    before, here, after = near[0], near[1], near[2]
    for _ in range(_MAX_STEPS):
        for k in range(3):
            upper, lower = stack[layer + k], stack[layer + k - 1]
            for j in range(3):
                for i in range(3):
                    near[k, j, i] = upper[y + j - 1, x + i - 1] - lower[y + j - 1, x + i - 1]
        v = here[1, 1]
        dx = (here[1, 2] - here[1, 0]) * 0.5
        dy = (here[2, 1] - here[0, 1]) * 0.5
        ds = (after[1, 1] - before[1, 1]) * 0.5
        dxx = here[1, 2] + here[1, 0] - 2 * v
        dyy = here[2, 1] + here[0, 1] - 2 * v
        dss = after[1, 1] + before[1, 1] - 2 * v
        dxy = 0.25 * (here[2, 2] - here[2, 0] - here[0, 2] + here[0, 0])
        dxs = 0.25 * (after[1, 2] - after[1, 0] - before[1, 2] + before[1, 0])
        dys = 0.25 * (after[2, 1] - after[0, 1] - before[2, 1] + before[0, 1])
        # Newton's step by the adjugate of the symmetric Hessian.
        a, b, c = dyy * dss - dys * dys, dxs * dys - dxy * dss, dxy * dys - dxs * dyy
        d, e, f = dxx * dss - dxs * dxs, dxs * dxy - dxx * dys, dxx * dyy - dxy * dxy
        determinant = dxx * a + dxy * b + dxs * c
        if determinant == 0:
            return nothing
        step_x = -(a * dx + b * dy + c * ds) / determinant
        step_y = -(b * dx + d * dy + e * ds) / determinant
        step_s = -(c * dx + e * dy + f * ds) / determinant
        if abs(step_x) < 0.5 and abs(step_y) < 0.5 and abs(step_s) < 0.5:
            contrast = abs(v + 0.5 * (dx * step_x + dy * step_y + ds * step_s)) / 255
            on_edge = f <= 0 or (dxx + dyy) ** 2 * _MAX_EDGE_RATIO >= (_MAX_EDGE_RATIO + 1) ** 2 * f
            if on_edge or contrast * NUM_LAYERS < min_contrast:
                return nothing
            return x + step_x, y + step_y, layer + step_s, contrast
        if not (abs(step_x) < width and abs(step_y) < height and abs(step_s) < num_layers):
            return nothing
        x, y, layer = x + int(np.round(step_x)), y + int(np.round(step_y)), layer + int(np.round(step_s))
        inside = _BORDER_PX <= x < width - _BORDER_PX and _BORDER_PX <= y < height - _BORDER_PX
        if not inside or layer < 1 or layer > num_layers - 2:
            return nothing
    return nothing


@compiled
def _is_extremum(rows: Floats, middle: int, layer: int, x: int) -> bool:
    """``rows`` [3, layers, width]: differences of layers, row y of the picture at y % 3; ``middle``: of the three."""
    value = rows[middle, layer, x]
    above = below = True
    for j in range(3):
        for k in range(layer - 1, layer + 2):
            for i in range(x - 1, x + 2):
                above &= value >= rows[j, k, i]
                below &= value <= rows[j, k, i]
    return above or below


@compiled
def _mark_row(rows: Floats, middle: int, layer: int, threshold: float, marks: npt.NDArray[np.uint8]) -> None:
    """1 where a pixel passes the threshold and its six nearest neighbours; without branches, for the vector unit.

    ``rows``, ``middle``: as in ``_is_extremum``.
    """
    row, before, after = rows[middle, layer], rows[middle, layer - 1], rows[middle, layer + 1]
    up, down = rows[(middle + 2) % 3, layer], rows[(middle + 1) % 3, layer]
    for x in range(1, len(row) - 1):
        v = row[x]
        high = max(max(row[x - 1], row[x + 1]), max(max(up[x], down[x]), max(before[x], after[x])))
        low = min(min(row[x - 1], row[x + 1]), min(min(up[x], down[x]), min(before[x], after[x])))
        marks[x] = ((v > threshold) & (v >= high)) | ((v < -threshold) & (v <= low))


@compiled
def _subtract(stack: Floats, y: int, out: Floats) -> None:
    """Writes row ``y`` of the differences of neighbouring layers, [layers, width]."""
    for layer in range(len(out)):
        lower, upper, row = stack[layer, y], stack[layer + 1, y], out[layer]
        for x in range(len(row)):
            row[x] = upper[x] - lower[x]


@compiled
def _extrema(stack: Floats, min_contrast: float) -> Floats:
    """float32 [n, 4]: x, y, layer, contrast, layer by layer."""
    num_layers, height, width = len(stack) - 1, stack.shape[1], stack.shape[2]
    threshold = 0.5 * min_contrast / NUM_LAYERS * 255
    marks = np.zeros(width, np.uint8)
    found, layers = np.empty((256, 4), np.float32), np.empty(256, np.int64)
    count = 0
    # Of the differences three rows are kept, in turn: all of them would not stay in the cache.
    rows = np.empty((3, num_layers, width), np.float32)
    for y in range(_BORDER_PX - 1, min(_BORDER_PX + 1, height)):
        _subtract(stack, y, rows[y % 3])
    for y in range(_BORDER_PX, height - _BORDER_PX):
        _subtract(stack, y + 1, rows[(y + 1) % 3])
        for layer in range(1, num_layers - 1):
            _mark_row(rows, y % 3, layer, threshold, marks)
            for x in range(_BORDER_PX, width - _BORDER_PX):
                if not marks[x] or not _is_extremum(rows, y % 3, layer, x):
                    continue
                place = _refine(stack, layer, y, x, min_contrast)
                if place[3] <= 0:
                    continue
                if count == len(found):
                    found, layers = np.concatenate((found, found)), np.concatenate((layers, layers))
                found[count, 0], found[count, 1], found[count, 2], found[count, 3] = place
                layers[count] = layer
                count += 1
    return found[np.argsort(layers[:count], kind="mergesort")]
