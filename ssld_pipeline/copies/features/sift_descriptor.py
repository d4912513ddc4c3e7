"""Orientations and SIFT descriptors of given places in a Gaussian pyramid (Lowe, IJCV 2004, sections 5 and 6).

The layout and the constants are OpenCV's: 4 rows, 4 columns, 8 bins of 45 degrees, counter-clockwise gradients.

A patch is read row by row: first gradients and their shares of the bins, in loops without branches, which the
compiler gives to the vector unit; then the sums. 250 descriptors take 2.8 ms so, 6.3 to 8.2 pixel by pixel.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.compiled import compiled
from ssld_pipeline.copies.features.scale_space import BASE_SIGMA, NUM_LAYERS

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
# Bins are kept with a cell around the four by four, and after each cell's eighth the first again; both are folded in
# at the end.
_PADDED = _CELLS + 2
_CELL_STEP = _BINS + 1
_ROW_STEP = _PADDED * _CELL_STEP
# A pixel on the border of the last cell may be rounded beyond it: two more rows take what it gives, which is nothing.
_NUM_SUMS = (_PADDED + 2) * _ROW_STEP
# What is known of the pixels of one row of a patch stands in one array, one quantity after the other: of several arrays
# the compiler would have to make sure that they do not overlap, and does not use the vector unit. The longest rows, of
# the largest sigma, have 77.
_MAX_PIXELS = 128
_TURN, _PLACE, _SHARES = _MAX_PIXELS, 2 * _MAX_PIXELS, 3 * _MAX_PIXELS


@compiled
def _turn(dy: np.float32, dx: np.float32) -> np.float32:
    """atan2 in turns, in [0,1]; a polynomial that is right to 0.0003 turns."""
    a, b = abs(dx), abs(dy)
    ratio = min(a, b) / (max(a, b) + np.float32(1e-12))
    square = ratio * ratio
    angle = np.float32(0.02476111) - square * np.float32(0.00705472)
    angle = ratio * (np.float32(0.15912112) + square * (np.float32(-0.05185400) + square * angle))
    angle = np.float32(0.25) - angle if b > a else angle
    angle = np.float32(0.5) - angle if dx < 0 else angle
    return np.float32(1) - angle if dy < 0 else angle


@compiled
def _gaussian(reach: int, stride: int, sigma: float) -> Floats:
    """[2 reach + 1]: its value at distances -reach stride, ..., reach stride; 1 in the middle."""
    values = np.empty(2 * reach + 1, np.float32)
    for k in range(reach + 1):
        values[reach - k] = values[reach + k] = math.exp(-((k * stride) ** 2) / (2 * sigma * sigma))
    return values


@compiled
def _sigma(layer: float) -> float:
    return float(BASE_SIGMA * 2.0 ** (layer / NUM_LAYERS))


@compiled
def _stride(sigma: float) -> int:
    return 2 if sigma >= _SIGMA_OF_SECOND_PIXELS else 1


@compiled
def _grid(centre: int, low: float, high: float, stride: int, size: int) -> tuple[int, int]:
    """(first, last) k for which k stride lies in [low, high], and the pixel at centre + k stride has neighbours."""
    low, high = max(low, 1.0 - centre), min(high, size - 2.0 - centre)
    return math.ceil(low / stride), math.floor(high / stride)


@compiled
def _read_gradients(image: Floats, x: int, y: int, stride: int, num: int, pixels: Floats) -> None:
    """Writes length and direction (turns, counter-clockwise) of the gradients at (x + k stride, y), k < num."""
    # With those between: side by side a gradient takes 2.6 ns, every second one alone 8.
    whole = (num - 1) * stride + 1
    row, up, down = image[y, x - 1 : x + whole + 1], image[y - 1, x : x + whole], image[y + 1, x : x + whole]
    for k in range(whole):
        dx, dy = row[k + 2] - row[k], up[k] - down[k]
        pixels[k] = np.sqrt(dx * dx + dy * dy)
        pixels[_TURN + k] = _turn(dy, dx)
    if stride > 1:
        for k in range(num):
            pixels[k], pixels[_TURN + k] = pixels[k * stride], pixels[_TURN + k * stride]


@compiled
def _dominant_angles(image: Floats, x: float, y: float, sigma: float, angles: Floats) -> int:
    """Writes at most len(angles) orientations (radians, clockwise from +x), strongest first; returns their number.

    ``image`` [h, w] is the pyramid's layer, ``x``, ``y``, ``sigma`` in its pixels.
    """
    height, width = image.shape
    centre_x, centre_y, stride = round(x), round(y), _stride(sigma)
    reach = round(4.5 * sigma) // stride
    weights = _gaussian(reach, stride, 1.5 * sigma)
    pixels = np.empty(2 * _MAX_PIXELS, np.float32)
    raw = np.zeros(_NUM_ANGLES + 1, np.float32)
    first, last = _grid(centre_x, -reach * stride, reach * stride, stride, width)
    top, bottom = _grid(centre_y, -reach * stride, reach * stride, stride, height)
    num = last - first + 1
    for j in range(top, bottom + 1):
        _read_gradients(image, centre_x + first * stride, centre_y + j * stride, stride, num, pixels)
        for k in range(num):
            bin_ = np.int32(np.float32(_NUM_ANGLES) * pixels[_TURN + k] + np.float32(0.5))
            raw[np.uint64(bin_)] += weights[reach + j] * weights[reach + first + k] * pixels[k]
    raw[0] += raw[_NUM_ANGLES]
    smooth = np.empty(_NUM_ANGLES, np.float32)
    n = _NUM_ANGLES
    for k in range(n):
        beside = raw[(k + n - 1) % n] + raw[(k + 1) % n]
        smooth[k] = (raw[(k + n - 2) % n] + raw[(k + 2) % n] + 4 * beside + 6 * raw[k]) / 16
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
    cells = bins[: _PADDED * _ROW_STEP].reshape(_PADDED, _PADDED, _CELL_STEP)[1:-1, 1:-1]
    cells[:, :, 0] += cells[:, :, _BINS]
    inner = cells[:, :, :_BINS].copy().reshape(out.size)
    limit = np.float32(math.sqrt((inner * inner).sum()) * _CLIPPED_AT)
    inner = np.minimum(inner, limit)
    scale = np.float32(_NORM / max(math.sqrt((inner * inner).sum()), 1e-7))
    for k in range(out.size):
        out[k] = min(int(inner[k] * scale + 0.5), 255)


@compiled
def _interval(slope: float, offset: float, reach: float) -> tuple[float, float]:
    """That of t in which |slope t + offset| < reach."""
    if abs(slope) < 1e-9:
        return (-1e9, 1e9) if abs(offset) < reach else (1.0, -1.0)
    one, other = (-reach - offset) / slope, (reach - offset) / slope
    return min(one, other), max(one, other)


@compiled
def _share_out(
    pixels: Floats,
    weights: Floats,
    row: tuple[np.float32, np.float32],
    column: tuple[np.float32, np.float32],
    turn_there: np.float32,
) -> None:
    """Writes what each gradient gives to the eight bins around it, and the first of these bins.

    ``weights`` [num]. ``row``, ``column``: of the first gradient, in cells, and the step to the next.
    """
    for k in range(len(weights)):
        # Conversion to a whole number cuts, which is the floor of what is positive.
        down, right = row[0] + np.float32(k) * row[1], column[0] + np.float32(k) * column[1]
        turn = (pixels[_TURN + k] + turn_there) * np.float32(_BINS)
        cell_row, cell_column, bin_ = np.int32(down), np.int32(right), np.int32(turn)
        place = cell_row * np.int32(_ROW_STEP) + cell_column * np.int32(_CELL_STEP) + (bin_ & np.int32(_BINS - 1))
        pixels[_PLACE + k] = np.float32(place)
        down, right, turn = down - np.float32(cell_row), right - np.float32(cell_column), turn - np.float32(bin_)
        length = pixels[k] * weights[k]
        lower = length * down
        upper_right, lower_right = (length - lower) * right, lower * right
        upper_left, lower_left = length - lower - upper_right, lower - lower_right
        pixels[_SHARES + k] = upper_left * (np.float32(1) - turn)
        pixels[_SHARES + _MAX_PIXELS + k] = upper_left * turn
        pixels[_SHARES + 2 * _MAX_PIXELS + k] = upper_right * (np.float32(1) - turn)
        pixels[_SHARES + 3 * _MAX_PIXELS + k] = upper_right * turn
        pixels[_SHARES + 4 * _MAX_PIXELS + k] = lower_left * (np.float32(1) - turn)
        pixels[_SHARES + 5 * _MAX_PIXELS + k] = lower_left * turn
        pixels[_SHARES + 6 * _MAX_PIXELS + k] = lower_right * (np.float32(1) - turn)
        pixels[_SHARES + 7 * _MAX_PIXELS + k] = lower_right * turn


@compiled
def _add_up(pixels: Floats, num: int, bins: Floats) -> None:
    one, cell, row = np.uint64(1), np.uint64(_CELL_STEP), np.uint64(_ROW_STEP)
    for k in range(num):
        at = np.uint64(np.int32(pixels[_PLACE + k]))  # unsigned: an index that may be negative is checked for it
        bins[at] += pixels[_SHARES + k]
        bins[at + one] += pixels[_SHARES + _MAX_PIXELS + k]
        bins[at + cell] += pixels[_SHARES + 2 * _MAX_PIXELS + k]
        bins[at + cell + one] += pixels[_SHARES + 3 * _MAX_PIXELS + k]
        bins[at + row] += pixels[_SHARES + 4 * _MAX_PIXELS + k]
        bins[at + row + one] += pixels[_SHARES + 5 * _MAX_PIXELS + k]
        bins[at + row + cell] += pixels[_SHARES + 6 * _MAX_PIXELS + k]
        bins[at + row + cell + one] += pixels[_SHARES + 7 * _MAX_PIXELS + k]


@compiled
def _describe(image: Floats, x: float, y: float, sigma: float, angle: float, out: npt.NDArray[np.uint8]) -> None:
    """Writes the descriptor, uint8 [128] of norm about 512, of the patch turned by ``angle`` (radians, clockwise)."""
    height, width = image.shape
    centre_x, centre_y, stride = round(x), round(y), _stride(sigma)
    cell = _CELL_WIDTH * sigma
    # Per step of the grid, in cells.
    cos, sin = stride * math.cos(angle) / cell, stride * math.sin(angle) / cell
    half = (_CELLS + 1) / 2
    reach = round(cell * math.sqrt(2.0) * half) // stride
    weights = _gaussian(reach, stride, 0.5 * _CELLS * cell)
    pixels = np.empty(_SHARES + 8 * _MAX_PIXELS, np.float32)
    bins = np.zeros(_NUM_SUMS, np.float32)
    top, bottom = _grid(centre_y, -reach * stride, reach * stride, stride, height)
    for j in range(top, bottom + 1):
        # The part of the row that lies in the turned square.
        along, across = _interval(cos, sin * j, half), _interval(-sin, cos * j, half)
        low, high = max(along[0], across[0], -reach) * stride, min(along[1], across[1], reach) * stride
        first, last = _grid(centre_x, low, high, stride, width)
        num = last - first + 1
        if num <= 0:
            continue
        _read_gradients(image, centre_x + first * stride, centre_y + j * stride, stride, num, pixels)
        row = np.float32(cos * j - sin * first + half), np.float32(-sin)
        column = np.float32(cos * first + sin * j + half), np.float32(cos)
        near = weights[reach + first : reach + last + 1] * weights[reach + j]
        # Gradients turn counter-clockwise, key points clockwise: their sum is the angle within the patch.
        _share_out(pixels, near, row, column, np.float32(angle / (2 * math.pi)))
        _add_up(pixels, num, bins)
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
