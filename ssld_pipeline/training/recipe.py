"""How views for the teacher are made, as a value that the command line can hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How views are made. ``image_size``: side of a view, pixels. ``crop_pct``: of view 0. ``min_crop_area``: of the
    others, as a share of the image. ``jitter``: brightness, contrast and saturation are changed by factors uniform in
    [1 - jitter, 1 + jitter]; 0: not at all."""

    image_size: int
    crop_pct: float
    min_crop_area: float = 0.08
    jitter: float = 0.0
    seed: int = 0
