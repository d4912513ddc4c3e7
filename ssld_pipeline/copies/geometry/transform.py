"""What a homography did to an image, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ssld_pipeline.copies.geometry.homography import Size, corners, project

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Transform:
    """The pool image seen from the protected one: mirrored first, then turned, stretched and scaled.

    ``scale``: pool pixels per protected pixel. ``rotation_deg``: clockwise, in (-180, 180]. ``stretch``: longer over
    shorter axis, >= 1. ``coverage``: share of the protected image the pool image shows, in [0,1].
    """

    mirrored: bool
    scale: float
    rotation_deg: float
    stretch: float
    coverage: float

    def words(self) -> list[str]:
        """What a person would call it; what is too small to be meant is left out."""
        words = ["mirrored"] if self.mirrored else []
        if abs(self.scale - 1) > 0.02:
            words.append(f"resized to {self.scale:.2f}×")
        if abs(self.rotation_deg) > 1:
            sense = "clockwise" if self.rotation_deg > 0 else "anticlockwise"
            words.append(f"rotated {abs(self.rotation_deg):.0f}° {sense}")
        if self.stretch > 1.05:
            words.append(f"stretched {self.stretch:.2f} : 1")
        if self.coverage < 0.97:
            words.append(f"shows {100 * self.coverage:.0f} % of the protected image")
        return words or ["same framing"]


def matrix(homography: Sequence[float] | None) -> Array | None:
    """The 3x3 matrix, or None where there is none or it cannot be inverted."""
    if homography is None or len(homography) != 9:
        return None
    h = np.asarray(homography, dtype=np.float64).reshape(3, 3)
    if not np.isfinite(h).all() or np.linalg.matrix_rank(h) < 3:
        return None
    return h


def in_front(h: Array, points: Array) -> Array | None:
    """``points`` (N, 2) through ``h``; None where the horizon runs between them."""
    mapped, depth = project(h, points)
    return None if np.min(np.abs(depth)) < 1e-9 or np.ptp(np.sign(depth)) else mapped


def transform(h: Array, pool: Size, protected: Size) -> Transform | None:
    """How the pool image was made from the protected one, taken at the pool image's centre; None off the horizon."""
    shown = in_front(h, corners(pool))
    if shown is None:
        return None
    jacobian = np.linalg.inv(_jacobian(h, np.array(pool, dtype=np.float64) / 2))
    mirrored = bool(np.linalg.det(jacobian) < 0)
    turned = jacobian @ np.diag([-1.0, 1.0]) if mirrored else jacobian
    longest, shortest = np.linalg.svd(turned, compute_uv=False)
    rotation = math.atan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])
    return Transform(
        mirrored, math.sqrt(longest * shortest), math.degrees(rotation), longest / shortest, _coverage(shown, protected)
    )


def _jacobian(h: Array, point: Array) -> Array:
    x, y, w = h @ np.array([*point, 1.0])
    return np.asarray((h[:2, :2] - np.outer([x / w, y / w], h[2, :2])) / w)


def _coverage(shown: Array, protected: Size) -> float:
    area, _ = cv2.intersectConvexConvex(shown.astype(np.float32), corners(protected).astype(np.float32))
    return float(min(1.0, area / (protected[0] * protected[1])))
