"""Orientations and SIFT descriptors of given places in a Gaussian pyramid (Lowe, IJCV 2004, sections 5 and 6).

The layout and the constants are OpenCV's: 4 rows, 4 columns, 8 bins of 45 degrees, counter-clockwise gradients.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ssld_pipeline.kernels.compiled import compiled
from ssld_pipeline.kernels.scale_space import BASE_SIGMA, NUM_LAYERS

Floats = npt.NDArray[np.float32]

_NUM_ANGLES = 36
_PEAK_SHARE = 0.8
_CELLS = 4
_BINS = 8
_CELL_WIDTH = 3.0
_CLIPPED_AT = 0.2
_NORM = 512.0
# A layer is smooth over its sigma: from this one on, every second pixel tells as much in a quarter of the time.
_SIGMA_OF_SECOND_PIXELS = 2.3


@compiled
def _turn(dy: float, dx: float) -> float:
    """atan2 in turns, in [0,1); a polynomial that is right to 0.0003 turns."""
    a, b = abs(dx), abs(dy)
    ratio = min(a, b) / (max(a, b) + 1e-12)
    square = ratio * ratio
    angle = ratio * (0.15912112 + square * (-0.05185400 + square * (0.02476111 - square * 0.00705472)))
    if b > a:
        angle = 0.25 - angle
    if dx < 0:
        angle = 0.5 - angle
    if dy < 0:
        angle = 1.0 - angle
    return angle


@compiled
def _gaussian(reach: int, sigma: float) -> Floats:
    """[reach + 1]: its value at whole distances; 1 in the middle."""
    values = np.empty(reach + 1, np.float32)
    for k in range(reach + 1):
        values[k] = math.exp(-k * k / (2 * sigma * sigma))
    return values


@compiled
def _sigma(layer: float) -> float:
    return float(BASE_SIGMA * 2.0 ** (layer / NUM_LAYERS))


@compiled
def _dominant_angles(image: Floats, x: float, y: float, sigma: float, angles: Floats) -> int:
    """Writes at most len(angles) orientations (radians, clockwise from +x), strongest first; returns their number.

    ``image`` [h, w] is the pyramid's layer, ``x``, ``y``, ``sigma`` in its pixels.
    """
    height, width = image.shape
    centre_x, centre_y = round(x), round(y)
    stride = 2 if sigma >= _SIGMA_OF_SECOND_PIXELS else 1
    reach = round(4.5 * sigma) // stride * stride
    weights = _gaussian(reach, 1.5 * sigma)
    raw = np.zeros(_NUM_ANGLES, np.float32)
    for j in range(centre_y - reach, centre_y + reach + 1, stride):
        if j < 1 or j > height - 2:
            continue
        for i in range(centre_x - reach, centre_x + reach + 1, stride):
            if i < 1 or i > width - 2:
                continue
            dx, dy = image[j, i + 1] - image[j, i - 1], image[j - 1, i] - image[j + 1, i]
            weight = weights[abs(i - centre_x)] * weights[abs(j - centre_y)]
            bin_ = int(_NUM_ANGLES * _turn(dy, dx) + 0.5)
            raw[bin_ if bin_ < _NUM_ANGLES else 0] += weight * math.sqrt(dx * dx + dy * dy)
    smooth = np.empty(_NUM_ANGLES, np.float32)
    n = _NUM_ANGLES
    for k in range(n):
        smooth[k] = (raw[k - 2] + raw[(k + 2) % n] + 4 * (raw[k - 1] + raw[(k + 1) % n]) + 6 * raw[k]) / 16
    threshold = smooth.max() * _PEAK_SHARE
    heights = np.zeros(len(angles), np.float32)
    count = 0
    for k in range(n):
        left, middle, right = smooth[k - 1], smooth[k], smooth[(k + 1) % n]
        if middle <= left or middle <= right or middle < threshold:
            continue
        peak = k + 0.5 * (left - right) / (left - 2 * middle + right)
        place = min(count, len(angles) - 1)
        if count == len(angles) and heights[place] >= middle:
            continue
        while place > 0 and heights[place - 1] < middle:
            heights[place], angles[place] = heights[place - 1], angles[place - 1]
            place -= 1
        heights[place] = middle
        angles[place] = (2 * math.pi - peak * 2 * math.pi / n) % (2 * math.pi)
        count = min(count + 1, len(angles))
    return count


@compiled
def _normalise(bins: Floats, out: npt.NDArray[np.uint8]) -> None:
    """Clipped at a fifth of the norm, so that no single edge rules, and scaled to a norm of about 512."""
    inner = bins[1:-1, 1:-1].copy().reshape(out.size)
    limit = np.float32(math.sqrt((inner * inner).sum()) * _CLIPPED_AT)
    inner = np.minimum(inner, limit)
    scale = np.float32(_NORM / max(math.sqrt((inner * inner).sum()), 1e-7))
    for k in range(out.size):
        out[k] = min(int(inner[k] * scale + 0.5), 255)


@compiled
def _describe(image: Floats, x: float, y: float, sigma: float, angle: float, out: npt.NDArray[np.uint8]) -> None:
    """Writes the descriptor, uint8 [128] of norm about 512, of the patch turned by ``angle`` (radians, clockwise)."""
    height, width = image.shape
    centre_x, centre_y = round(x), round(y)
    cell = _CELL_WIDTH * sigma
    cos, sin = math.cos(angle) / cell, math.sin(angle) / cell
    stride = 2 if sigma >= _SIGMA_OF_SECOND_PIXELS else 1
    reach = round(cell * math.sqrt(2.0) * (_CELLS + 1) * 0.5) // stride * stride
    start_turn = angle / (2 * math.pi)
    weights = _gaussian(reach, 0.5 * _CELLS * cell)
    bins = np.zeros((_CELLS + 2, _CELLS + 2, _BINS), np.float32)
    for j in range(centre_y - reach, centre_y + reach + 1, stride):
        if j < 1 or j > height - 2:
            continue
        for i in range(centre_x - reach, centre_x + reach + 1, stride):
            if i < 1 or i > width - 2:
                continue
            along = cos * (i - centre_x) + sin * (j - centre_y)
            across = cos * (j - centre_y) - sin * (i - centre_x)
            column, row = along + (_CELLS / 2 - 0.5), across + (_CELLS / 2 - 0.5)
            if not (-1 < row < _CELLS and -1 < column < _CELLS):
                continue
            dx, dy = image[j, i + 1] - image[j, i - 1], image[j - 1, i] - image[j + 1, i]
            weight = weights[abs(i - centre_x)] * weights[abs(j - centre_y)]
            magnitude = np.float32(math.sqrt(dx * dx + dy * dy) * weight)
            # Gradients turn counter-clockwise, key points clockwise: their sum is the angle within the patch.
            turn = (_turn(dy, dx) + start_turn) * _BINS
            row_0, column_0, turn_0 = math.floor(row), math.floor(column), math.floor(turn)
            f_row, f_column, f_turn = np.float32(row - row_0), np.float32(column - column_0), np.float32(turn - turn_0)
            low, high = turn_0 & 7, (turn_0 + 1) & 7
            for r in range(2):
                in_row = magnitude * (f_row if r else 1 - f_row)
                for c in range(2):
                    share = in_row * (f_column if c else 1 - f_column)
                    bins[row_0 + 1 + r, column_0 + 1 + c, low] += share * (1 - f_turn)
                    bins[row_0 + 1 + r, column_0 + 1 + c, high] += share * f_turn
    _normalise(bins, out)


@compiled
def orient(layers: Floats, places: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(angles [n, 2], how many of the two hold [n]) of places [n, 3] (x, y, layer) in an octave [layers, h, w]."""
    angles = np.zeros((len(places), 2), np.float32)
    counts = np.zeros(len(places), np.int64)
    for k in range(len(places)):
        layer = round(places[k, 2])
        counts[k] = _dominant_angles(layers[layer], places[k, 0], places[k, 1], _sigma(places[k, 2]), angles[k])
    return angles, counts


@compiled
def describe(layers: Floats, places: Floats, angles: Floats) -> npt.NDArray[np.uint8]:
    """uint8 [n, 128], of norm about 512: the patches at places [n, 3] of an octave, turned by angles [n]."""
    descriptors = np.empty((len(places), _CELLS * _CELLS * _BINS), np.uint8)
    for k in range(len(places)):
        layer = round(places[k, 2])
        _describe(layers[layer], places[k, 0], places[k, 1], _sigma(places[k, 2]), angles[k], descriptors[k])
    return descriptors
