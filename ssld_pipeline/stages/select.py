from __future__ import annotations
from typing import Literal
from pydantic import Field
from ssld_pipeline.settings import Settings


class SelectConfig(Settings):
    per_class: int = Field(4000, gt=0)
    """Most mined images per class. Unpublished; 4000 fits the publication's total of nearly 4 million."""
    assignment: Literal["top1"] = "top1"
    """top1: an image belongs to its most probable class."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Images whose teacher probability is below this are not mined."""
