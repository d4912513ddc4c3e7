from __future__ import annotations
from pydantic import Field
from ssld_pipeline.settings import Settings


class LabelConfig(Settings):
    num_kept: int = Field(20, gt=0)
    """Most probable classes stored per image; the rest is summed into tail_prob."""
