"""Outlines of the demo's ten classes and of the distractors: contours in a unit frame, drawn to a soft mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Contours = list[Floats]

_TAU = 2 * math.pi
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Pose:
    """Where a shape lies: centre and radius in pixels, angle in radians; ``aspect`` stretches x against y,
    ``wobble`` is the relative depth of two slow waves along the outline, as of a shape cut by hand."""

    centre: tuple[float, float]
    radius: float
    angle: float
    aspect: float = 1.0
    wobble: float = 0.0
    wave: float = 0.0


def draw_mask(contours: Contours, pose: Pose, height: int, width: int) -> Floats:
    """(height, width) coverage in [0,1]; where contours overlap an even number of times there is a hole."""
    mask = np.zeros((height, width), np.uint8)
    scale = 1 << _SUBPIXEL_BITS
    placed = [np.rint(_place(c, pose) * scale).astype(np.int32) for c in contours]
    cv2.fillPoly(mask, placed, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask.astype(np.float32) * np.float32(1 / 255)


def _place(contour: Floats, pose: Pose) -> Floats:
    theta = np.arctan2(contour[:, 1], contour[:, 0])
    reach = 1 + pose.wobble * (np.sin(2 * theta + pose.wave) + np.sin(3 * theta - 2 * pose.wave)) / 2
    stretched = contour * reach[:, None] * [math.sqrt(pose.aspect), 1 / math.sqrt(pose.aspect)]
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    turned = stretched @ np.array([[cos, sin], [-sin, cos]])
    return np.asarray(turned * pose.radius + pose.centre, np.float32)


def _dense(corners: list[tuple[float, float]], per_edge: int = 12) -> Floats:
    """The closed polygon with points along its edges, so that wobble bends them."""
    points = np.asarray(corners, np.float32)
    steps = np.linspace(0, 1, per_edge, endpoint=False, dtype=np.float32)[None, :, None]
    ends = np.roll(points, -1, axis=0)
    edges: Floats = points[:, None] * (1 - steps) + ends[:, None] * steps
    return edges.reshape(-1, 2)


def _arc(radius: float, start: float, stop: float, x: float = 0.0, y: float = 0.0, num: int = 48) -> Floats:
    angles = np.linspace(start, stop, num, dtype=np.float32)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def _regular(num_corners: int, radius: float = 1.0) -> Floats:
    """A corner lies at the top."""
    angles = [_TAU * (i / num_corners - 0.25) for i in range(num_corners)]
    return _dense([(radius * math.cos(a), radius * math.sin(a)) for a in angles])


def _star(num_points: int, inner: float) -> Floats:
    radii = [1.0 if i % 2 == 0 else inner for i in range(2 * num_points)]
    angles = [math.pi * (i / num_points - 0.5) for i in range(2 * num_points)]
    return _dense([(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)], 6)


def _cross(arm: float) -> Floats:
    return _dense(
        [
            (arm, -1),
            (arm, -arm),
            (1, -arm),
            (1, arm),
            (arm, arm),
            (arm, 1),
            (-arm, 1),
            (-arm, arm),
            (-1, arm),
            (-1, -arm),
            (-arm, -arm),
            (-arm, -1),
        ],
        6,
    )


def _crescent(bite: float) -> Floats:
    """A disc less a disc of the same radius moved by ``bite``."""
    tip = math.acos(bite / 2)
    outer = _arc(1, tip, _TAU - tip)
    inner = _arc(1, math.pi + tip, math.pi - tip, x=bite)
    moon: Floats = np.concatenate([outer, inner])
    moon[:, 0] += 0.35
    return moon


def _arrow(shaft: float, head: float) -> Floats:
    return _dense([(-1, -shaft), (head, -shaft), (head, -0.75), (1, 0), (head, 0.75), (head, shaft), (-1, shaft)], 8)


def _heart() -> Floats:
    t = np.linspace(0, _TAU, 96, endpoint=False, dtype=np.float32)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.asarray(np.stack([x, y], axis=1) / 16, np.float32)


def _bolt() -> Floats:
    return _dense([(-0.1, -1), (0.55, -1), (0.15, -0.25), (0.6, -0.25), (-0.45, 1), (-0.1, 0.1), (-0.5, 0.1)], 6)


def _bar_letter(bars: list[tuple[float, float, float, float]]) -> Contours:
    """Strokes given as (left, top, right, bottom) that do not overlap."""
    return [_dense([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], 6) for x0, y0, x1, y1 in bars]


SHAPES: dict[str, Callable[[np.random.Generator], Contours]] = {
    "arrow": lambda rng: [_arrow(rng.uniform(0.22, 0.38), rng.uniform(-0.15, 0.25))],
    "crescent": lambda rng: [_crescent(rng.uniform(0.5, 0.9))],
    "cross": lambda rng: [_cross(rng.uniform(0.25, 0.4))],
    "disc": lambda rng: [_arc(1, 0, _TAU, num=72)],
    "heart": lambda rng: [_heart()],
    "hexagon": lambda rng: [_regular(6)],
    "ring": lambda rng: [_arc(1, 0, _TAU, num=72), _arc(rng.uniform(0.45, 0.7), 0, _TAU)],
    "square": lambda rng: [_dense([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])],
    "star": lambda rng: [_star(5, rng.uniform(0.38, 0.52))],
    "triangle": lambda rng: [_regular(3)],
}
"""The classes, in the order of their class ids."""

DISTRACTORS: dict[str, Callable[[np.random.Generator], Contours]] = {
    "bar": lambda rng: [_dense([(-1, -0.22), (1, -0.22), (1, 0.22), (-1, 0.22)])],
    "bolt": lambda rng: [_bolt()],
    "burst": lambda rng: [_star(int(rng.integers(9, 14)), rng.uniform(0.6, 0.8))],
    "frame": lambda rng: [_regular(4), _regular(4, rng.uniform(0.5, 0.7))],
    "half": lambda rng: [_arc(1, 0, math.pi)],
    "letter_h": lambda rng: _bar_letter([(-0.7, -1, -0.25, 1), (0.25, -1, 0.7, 1), (-0.25, -0.2, 0.25, 0.2)]),
    "letter_l": lambda rng: _bar_letter([(-0.6, -1, -0.15, 1), (-0.15, 0.55, 0.7, 1)]),
    "letter_t": lambda rng: _bar_letter([(-0.8, -1, 0.8, -0.55), (-0.22, -0.55, 0.22, 1)]),
    "lobes": lambda rng: [_arc(0.5, 0, _TAU, x=-0.5), _arc(0.5, 0, _TAU, x=0.5)],
    "two_bars": lambda rng: _bar_letter([(-0.9, -0.7, 0.9, -0.25), (-0.9, 0.25, 0.9, 0.7)]),
}
