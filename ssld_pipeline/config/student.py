"""The network that is trained."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ssld_pipeline.config.settings import Means, Settings, Stds


class StudentConfig(Settings):
    model: str
    """`timm:<name>`, `torchvision:<name>` or `ssld:<name>` (res2net200_vd_26w_4s, which the others lack)."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the model's constructor."""
    weights: str | None = None
    """Start from these weights, with a fresh classifier; null: from scratch, as the publication does."""
    mean: Means = (0.485, 0.456, 0.406)
    """Per channel (RGB), for pixels scaled to [0,1]."""
    std: Stds = (0.229, 0.224, 0.225)
    """Per channel (RGB), for pixels scaled to [0,1]."""
