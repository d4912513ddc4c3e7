"""How teacher predictions are stored."""

from __future__ import annotations

from pydantic import Field

from ssld_pipeline.config.settings import Settings


class LabelConfig(Settings):
    num_kept: int = Field(20, gt=0)
    """Most probable classes stored per image; the rest is summed into tail_prob."""
    views: int = Field(0, ge=0)
    """Augmented views stored per image besides the evaluation view, each a pass through the teacher, for training with
    teacher: stored. Stored views are kept when this grows."""
    view_min_crop_area: float = Field(0.08, gt=0, le=1)
    """Smallest area of an augmented view, as a share of the image."""
    view_jitter: float = Field(0.0, ge=0, lt=1)
    """Brightness, contrast and saturation of an augmented view change by factors uniform in [1 - this, 1 + this]."""
    view_seed: int = 0
    """Decides the augmented views, together with image_id and the view's number."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """A part that loses a larger share of its images than this (and more than 10) is not committed."""
