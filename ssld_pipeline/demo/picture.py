"""One drawn photograph: a textured shape with light and shadow before a textured background, seen by a camera."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ssld_pipeline.demo.shapes import DISTRACTORS, SHAPES, Pose, draw_mask
from ssld_pipeline.demo.textures import PATTERNS, Floats, Rng, blend, clutter, colour, octave_noise

SHORT_SIDE_PX = (112, 129)
MEAN_CONTRAST = 0.3
"""Least distance between the mean colours of shape and background, RGB in [0,1]."""
TYPICAL_SHARE = 0.95
"""Share of the things of a class that wear its typical pattern; the others wear any."""
HUE_SPREAD = 0.12
"""Standard deviation of the hue about its class's, in turns; ten classes lie 0.1 apart."""
MUTED = (0.0, 0.35)
"""Saturation of backgrounds, which makes things stand out of them."""


@dataclass(frozen=True)
class Habit:
    """What things of a class tend to look like, besides their shape: as in nature a cue, but not a sure one."""

    pattern: str
    hue: float


HABITS = {
    "arrow": Habit("stripes", 0.0),
    "crescent": Habit("clouds", 0.3),
    "cross": Habit("weave", 0.6),
    "disc": Habit("spots", 0.9),
    "heart": Habit("grain", 0.2),
    "hexagon": Habit("stripes", 0.5),
    "ring": Habit("clouds", 0.8),
    "square": Habit("weave", 0.1),
    "star": Habit("spots", 0.4),
    "triangle": Habit("grain", 0.7),
}


def draw_picture(rng: Rng, shape: str | None) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB with one thing of the class ``shape``; None: something of no class, or nothing at all."""
    height, width = _frame(rng)
    picture = background = _background(rng, height, width)
    if shape is not None or rng.random() < 0.75:
        maker = SHAPES[shape] if shape is not None else DISTRACTORS[_any(rng, DISTRACTORS)]
        pose = _pose(rng, height, width)
        mask = draw_mask(maker(rng), pose, height, width)
        surface = _contrasting(_surface(rng, shape, height, width), background, mask)
        picture = _put(rng, background, _shade(rng, surface, mask, pose), mask, pose)
        picture = _occlude(rng, picture, pose)
    return _photograph(rng, picture)


def _any(rng: Rng, names: Mapping[str, object]) -> str:
    return sorted(names)[int(rng.integers(len(names)))]


def _frame(rng: Rng) -> tuple[int, int]:
    short = int(rng.integers(*SHORT_SIDE_PX))
    long = round(short * rng.uniform(1, 1.3))
    return (short, long) if rng.random() < 0.6 else (long, short)


def _background(rng: Rng, height: int, width: int) -> Floats:
    """A calm, muted pattern; in a third of the pictures with clutter."""
    dark, light = colour(rng, saturation=MUTED), colour(rng, saturation=MUTED)
    light = dark + (light - dark) * np.float32(rng.uniform(0.25, 0.8))
    background = blend(PATTERNS[_any(rng, PATTERNS)](rng, height, width), dark, light)
    return clutter(rng, background) if rng.random() < 0.33 else background


def _surface(rng: Rng, shape: str | None, height: int, width: int) -> Floats:
    """Two tones of one hue in a pattern, after the habit of the class."""
    typical = shape is not None and rng.random() < TYPICAL_SHARE
    pattern = HABITS[shape].pattern if shape is not None and typical else _any(rng, PATTERNS)
    hue = HABITS[shape].hue + rng.normal(0, HUE_SPREAD) if shape is not None else rng.random()
    dark = colour(rng, hue + rng.normal(0, 0.03), (0.3, 0.9), (0.15, 0.55))
    light = colour(rng, hue + rng.normal(0, 0.03), (0.1, 0.8), (0.6, 1.0))
    return blend(PATTERNS[pattern](rng, height, width), dark, light)


def _pose(rng: Rng, height: int, width: int) -> Pose:
    """Wholly inside the frame or nearly so; the diameter is 56 to 90 % of the short side."""
    radius = min(height, width) * rng.uniform(0.28, 0.45)
    slack_x, slack_y = width / 2 - 0.9 * radius, height / 2 - 0.9 * radius
    centre = (width / 2 + slack_x * rng.uniform(-0.8, 0.8), height / 2 + slack_y * rng.uniform(-0.8, 0.8))
    return Pose(
        centre,
        radius,
        rng.uniform(-0.5, 0.5),
        math.exp(rng.uniform(-0.2, 0.2)),
        rng.uniform(0, 0.1),
        rng.uniform(0, 2 * math.pi),
    )


def _contrasting(surface: Floats, background: Floats, mask: Floats) -> Floats:
    """The surface, moved away from the background's mean colour where the two nearly agree."""
    inside = np.array(cv2.mean(surface, np.uint8(mask > 0.5))[:3])
    around = np.array(cv2.mean(background)[:3])
    gap = inside - around
    distance = float(np.linalg.norm(gap))
    if distance >= MEAN_CONTRAST:
        return surface
    direction = gap / distance if distance > 0.02 else np.ones(3) * (1 if around.mean() < 0.5 else -1) / math.sqrt(3)
    return np.asarray(np.clip(surface + direction * (MEAN_CONTRAST - distance), 0, 1), np.float32)


def _shade(rng: Rng, surface: Floats, mask: Floats, pose: Pose) -> Floats:
    """Light from one side on a slightly domed thing: the slope of the blurred mask against the light."""
    dome = cv2.GaussianBlur(mask, (0, 0), pose.radius * 0.12)
    angle = rng.uniform(0, 2 * math.pi)
    slope = cv2.Sobel(dome, cv2.CV_32F, 1, 0) * math.cos(angle) + cv2.Sobel(dome, cv2.CV_32F, 0, 1) * math.sin(angle)
    light = 1 + np.float32(rng.uniform(0.1, 0.6)) * slope
    return np.asarray(np.clip(surface * light[..., None], 0, 1), np.float32)


def _put(rng: Rng, background: Floats, thing: Floats, mask: Floats, pose: Pose) -> Floats:
    """The thing before the background, with the shadow that it casts."""
    offset = pose.radius * rng.uniform(0.03, 0.2)
    angle = rng.uniform(0, 2 * math.pi)
    move = np.array([[1, 0, offset * math.cos(angle)], [0, 1, offset * math.sin(angle)]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(mask, move, mask.shape[::-1]), (0, 0), max(1.0, offset * 0.6))
    darkened = background * (1 - np.float32(rng.uniform(0.1, 0.6)) * shadow)[..., None]
    put: Floats = darkened + (thing - darkened) * mask[..., None]
    return put


def _occlude(rng: Rng, picture: Floats, pose: Pose) -> Floats:
    """In two pictures of five one or two leaves lie across the thing."""
    if rng.random() < 0.6:
        return picture
    height, width = picture.shape[:2]
    cover = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, 3))):
        angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 1.0) * pose.radius
        at = (int(pose.centre[0] + reach * math.cos(angle)), int(pose.centre[1] + reach * math.sin(angle)))
        axes = (int(pose.radius * rng.uniform(0.4, 1.0)), int(pose.radius * rng.uniform(0.08, 0.2)))
        cv2.ellipse(cover, at, axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    leaf = _surface(rng, None, height, width)
    return picture + (leaf - picture) * cover[..., None]


def _photograph(rng: Rng, picture: Floats) -> NDArray[np.uint8]:
    """What a camera makes of it: uneven light, the roughness of real surfaces, a little blur or none, sensor noise."""
    height, width = picture.shape[:2]
    light = octave_noise(rng, height, width, 64, 0.3, finest_px=16) * np.float32(rng.uniform(0.1, 0.5))
    rough = octave_noise(rng, height, width, 8, 0.9, finest_px=2) * np.float32(rng.uniform(0.3, 0.6))
    picture = picture * (light + rough + np.float32(rng.uniform(0.45, 0.85)))[..., None]
    if rng.random() < 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 0.8))
    noise = cv2.merge([rng.standard_normal((height, width), dtype=np.float32)] * 3) * np.float32(rng.uniform(1, 5))
    seen: NDArray[np.uint8] = np.clip(picture * np.float32(255) + noise, 0, 255).astype(np.uint8)
    return seen
