"""Seeded patterns for drawn photographs: noise, stripes, weave, grain, spots, clutter; levels and colours in [0,1]."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rng = np.random.Generator


def octave_noise(
    rng: Rng, height: int, width: int, coarsest_px: int = 64, roughness: float = 0.55, finest_px: int = 1
) -> Floats:
    """(height, width) noise in [0,1]: random grids, each half as coarse as the one before, whose weights fall by
    ``roughness``. Cells are ``coarsest_px`` to ``finest_px`` pixels wide, powers of two."""
    weight, cell = 1.0, coarsest_px
    level = rng.random((height // cell + 3, width // cell + 3), dtype=np.float32)
    while cell > finest_px:
        weight, cell = weight * roughness, cell // 2
        level = cv2.resize(level, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        level = level[: height // cell + 3, : width // cell + 3]
        level = level + np.float32(weight) * rng.random(level.shape, dtype=np.float32)
    if cell > 1:
        level = cv2.resize(level, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
    return _stretched(np.ascontiguousarray(level[:height, :width]))


def _stretched(level: Floats) -> Floats:
    """The level with 0 as its least value and 1 as its largest."""
    full: Floats = cv2.normalize(level, None, 0, 1, cv2.NORM_MINMAX)
    return full


def colour(
    rng: Rng,
    hue: float | None = None,
    saturation: tuple[float, float] = (0.1, 0.75),
    value: tuple[float, float] = (0.2, 0.95),
) -> Floats:
    """An RGB colour, (3,) in [0,1], of the given hue (in turns) or of any."""
    turn = rng.random() if hue is None else hue
    s, v = rng.uniform(*saturation), rng.uniform(*value)
    ramp = np.abs((np.array([6 * turn, 6 * turn + 4, 6 * turn + 2]) % 6) - 3) - 1
    return np.asarray(v * (1 - s + s * np.clip(ramp, 0, 1)), np.float32)


def blend(level: Floats, dark: Floats, light: Floats) -> Floats:
    """The colour map of a (H, W) level in [0,1]: (H, W, 3)."""
    coloured: Floats = cv2.merge([dark[i] + level * (light[i] - dark[i]) for i in range(3)])
    return coloured


def _coordinate(rng: Rng, height: int, width: int) -> Floats:
    """Distance along a random direction in pixels, bent by slow noise."""
    angle = rng.uniform(0, math.pi)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    bend = np.float32(rng.uniform(0, 25)) * octave_noise(rng, height, width, 64, 0.4, finest_px=8)
    along: Floats = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y + bend
    return along


def _wave(rng: Rng, height: int, width: int, period_px: tuple[float, float]) -> Floats:
    phase = _coordinate(rng, height, width) * np.float32(2 * math.pi / rng.uniform(*period_px))
    wave: Floats = np.sin(phase) * np.float32(rng.uniform(0.6, 2.5)) + 0.5
    np.clip(wave, 0, 1, out=wave)
    return wave


def clouds(rng: Rng, height: int, width: int) -> Floats:
    return octave_noise(rng, height, width, int(rng.choice([16, 32, 64])), rng.uniform(0.45, 0.75))


def stripes(rng: Rng, height: int, width: int) -> Floats:
    return _wave(rng, height, width, (6, 20))


def weave(rng: Rng, height: int, width: int) -> Floats:
    return _wave(rng, height, width, (7, 22)) * np.float32(0.5) + _wave(rng, height, width, (7, 22)) * np.float32(0.5)


def grain(rng: Rng, height: int, width: int) -> Floats:
    """Wood: noise stretched along one axis, and rings."""
    along, across = (9, 1) if rng.random() < 0.5 else (1, 9)
    fibre = _stretched(cv2.blur(rng.random((height, width), dtype=np.float32), (along, across)))
    return fibre * np.float32(0.6) + _wave(rng, height, width, (12, 40)) * np.float32(0.4)


def spots(rng: Rng, height: int, width: int) -> Floats:
    """A jittered grid of discs of several sizes."""
    level = np.zeros((height, width), np.float32)
    step = rng.uniform(10, 24)
    rows, columns = int(height / step) + 2, int(width / step) + 2
    draws = rng.random((rows, columns, 4))
    x = 16 * step * (np.arange(columns) + 0.5 * draws[..., 0] - 0.25)
    y = 16 * step * (np.arange(rows)[:, None] + 0.5 * draws[..., 1] - 0.25)
    radius = 16 * step * (0.2 + 0.2 * draws[..., 2])
    discs = np.rint(np.stack([x, y, radius], axis=-1)).astype(int).reshape(-1, 3).tolist()
    for (cx, cy, r), brightness in zip(discs, (0.6 + 0.4 * draws[..., 3]).ravel().tolist(), strict=True):
        cv2.circle(level, (cx, cy), r, brightness, -1, cv2.LINE_AA, 4)
    return level


def clutter(rng: Rng, picture: Floats) -> Floats:
    """Things out of focus before ``picture``: ellipses, slabs and rods, blurred."""
    height, width = picture.shape[:2]
    picture = picture.copy()
    for _ in range(int(rng.integers(4, 14))):
        tint = [float(c) for c in colour(rng, saturation=(0.05, 0.5))]
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        if rng.random() < 0.4:
            axes = (int(rng.integers(4, 28)), int(rng.integers(4, 28)))
            cv2.ellipse(picture, centre, axes, rng.uniform(0, 180), 0, 360, tint, -1, cv2.LINE_AA)
        elif rng.random() < 0.5:
            other = (int(rng.integers(0, width)), int(rng.integers(0, height)))
            cv2.line(picture, centre, other, tint, int(rng.integers(1, 7)), cv2.LINE_AA)
        else:
            box = cv2.boxPoints((centre, (rng.uniform(8, 50), rng.uniform(8, 50)), rng.uniform(0, 90)))
            cv2.fillPoly(picture, [np.int32(box)], tint, cv2.LINE_AA)
    blurred: Floats = cv2.GaussianBlur(picture, (0, 0), rng.uniform(1.2, 3.0))
    return blurred


PATTERNS: dict[str, Callable[[Rng, int, int], Floats]] = {
    "clouds": clouds,
    "grain": grain,
    "spots": spots,
    "stripes": stripes,
    "weave": weave,
}
"""(rng, height, width) -> (height, width) level in [0,1], to be coloured with ``blend``."""
