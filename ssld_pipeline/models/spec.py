"""What a network is, as a value: light enough for the command line, complete enough for a worker to build it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelSpec:
    """A network to build. ``weights``: local path of a safetensors file or torch checkpoint; null: a random start."""

    model: str
    num_classes: int
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    new_head: bool = False
    """The weights' classifier has another number of classes and is replaced by a fresh one."""
