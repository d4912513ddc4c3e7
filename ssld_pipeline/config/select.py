"""Which pool images a student is trained on."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ssld_pipeline.config.settings import Settings, SideFiles


class SelectConfig(Settings):
    per_class: int = Field(4000, gt=0)
    """Most mined images per class. Unpublished; 4000 fits the publication's total of nearly 4 million."""
    target_total: int | None = Field(None, gt=0)
    """Mined images wanted in all: takes the largest per_class that makes no more, in place of the one given. What
    min_per_class adds comes on top."""
    assignment: Literal["top1", "top_p"] = "top1"
    """top1: an image belongs to its most probable class. top_p: it counts for its `top_p` most probable classes, and
    enters once, for the class in whose list it stands highest."""
    top_p: int = Field(10, gt=1)
    """Classes an image counts for with assignment top_p, and where min_per_class looks; at most label.num_kept."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Images whose teacher probability is below this are not mined."""
    min_per_class: int = Field(0, ge=0)
    """A class that would get fewer is filled up to this with the best images that nobody took: scores below min_score,
    and images whose second to `top_p`-th class it is. What was filled is counted. 0: nothing is filled."""
    exclude: SideFiles = ()
    """Text files of image_ids, one a line, that never enter the manifest."""

    @model_validator(mode="after")
    def _fills_no_more_than_it_takes(self) -> Self:
        if self.target_total is None and self.min_per_class > self.per_class:
            raise ValueError(f"min_per_class must be at most per_class ({self.per_class}), got {self.min_per_class}")
        return self
