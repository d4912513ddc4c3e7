"""Blobs of an image at all sizes: extrema of its difference-of-Gaussians pyramid (Lowe, IJCV 2004, sections 3 and 4).

Constants are those of OpenCV's SIFT but for the first octave, which is the image itself: doubling it quadruples the
time, and a larger image of real pixels costs less for the same detail.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.kernels.compiled import compiled

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
        found = _extrema(np.subtract(stack[1:], stack[:-1]), min_contrast)
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
def _refine(dog: Floats, layer: int, y: int, x: int, min_contrast: float) -> tuple[float, float, float, float]:
    """(x, y, layer, contrast) of the quadratic through the neighbourhood; contrast 0 where it is refused."""
    num_layers, height, width = dog.shape
    nothing = (0.0, 0.0, 0.0, 0.0)
    for _ in range(_MAX_STEPS):
        v = dog[layer, y, x]
        here, before, after = dog[layer], dog[layer - 1], dog[layer + 1]
        dx = (here[y, x + 1] - here[y, x - 1]) * 0.5
        dy = (here[y + 1, x] - here[y - 1, x]) * 0.5
        ds = (after[y, x] - before[y, x]) * 0.5
        dxx = here[y, x + 1] + here[y, x - 1] - 2 * v
        dyy = here[y + 1, x] + here[y - 1, x] - 2 * v
        dss = after[y, x] + before[y, x] - 2 * v
        dxy = 0.25 * (here[y + 1, x + 1] - here[y + 1, x - 1] - here[y - 1, x + 1] + here[y - 1, x - 1])
        dxs = 0.25 * (after[y, x + 1] - after[y, x - 1] - before[y, x + 1] + before[y, x - 1])
        dys = 0.25 * (after[y + 1, x] - after[y - 1, x] - before[y + 1, x] + before[y - 1, x])
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
def _is_extremum(dog: Floats, layer: int, y: int, x: int) -> bool:
    value = dog[layer, y, x]
    above = below = True
    for k in range(layer - 1, layer + 2):
        for j in range(y - 1, y + 2):
            for i in range(x - 1, x + 2):
                above &= value >= dog[k, j, i]
                below &= value <= dog[k, j, i]
    return above or below


@compiled
def _mark_row(dog: Floats, layer: int, y: int, threshold: float, marks: npt.NDArray[np.uint8]) -> None:
    """1 where a pixel passes the threshold and its six nearest neighbours; without branches, for the vector unit."""
    row, before, after = dog[layer, y], dog[layer - 1, y], dog[layer + 1, y]
    up, down = dog[layer, y - 1], dog[layer, y + 1]
    for x in range(1, len(row) - 1):
        v = row[x]
        high = max(max(row[x - 1], row[x + 1]), max(max(up[x], down[x]), max(before[x], after[x])))
        low = min(min(row[x - 1], row[x + 1]), min(min(up[x], down[x]), min(before[x], after[x])))
        marks[x] = ((v > threshold) & (v >= high)) | ((v < -threshold) & (v <= low))


@compiled
def _extrema(dog: Floats, min_contrast: float) -> Floats:
    """float32 [n, 4]: x, y, layer, contrast."""
    num_layers, height, width = dog.shape
    threshold = 0.5 * min_contrast / NUM_LAYERS * 255
    marks = np.zeros(width, np.uint8)
    found = np.empty((256, 4), np.float32)
    count = 0
    for layer in range(1, num_layers - 1):
        for y in range(_BORDER_PX, height - _BORDER_PX):
            _mark_row(dog, layer, y, threshold, marks)
            for x in range(_BORDER_PX, width - _BORDER_PX):
                if not marks[x] or not _is_extremum(dog, layer, y, x):
                    continue
                place = _refine(dog, layer, y, x, min_contrast)
                if place[3] <= 0:
                    continue
                if count == len(found):
                    grown = np.empty((2 * count, 4), np.float32)
                    grown[:count] = found
                    found = grown
                found[count, 0], found[count, 1], found[count, 2], found[count, 3] = place
                count += 1
    return found[:count].copy()
