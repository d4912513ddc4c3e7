"""How the inputs are cut into parts."""

from __future__ import annotations

from pydantic import Field

from ssld_pipeline.config.settings import Settings


class CatalogConfig(Settings):
    images_per_part: int = Field(5000, gt=0)
    """Largest number of images in one part, the unit of work and of rerunning."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """A part that loses a larger share of its images than this (and more than 10) is not committed, and an input that
    does is refused; at 0, damaged archives are refused too. An input without a usable image is refused at any share."""
    max_unknown_labels: float = Field(0.01, ge=0, le=1)
    """A labelled, protected or teacher input is refused if a larger share of its images than this (and more than 10)
    has a label that names no class of the run."""
