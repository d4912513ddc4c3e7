from __future__ import annotations
from pydantic import Field
from ssld_pipeline.settings import Settings


class LabelConfig(Settings):
    num_kept: int = Field(20, gt=0)
    """Most probable classes stored per image; the rest is summed into tail_prob."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """A part that loses a larger share of its images than this (and more than 10) is not committed."""
