"""A training run described completely: what `fit`, alone or in many processes, needs to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ssld_pipeline.training.settings import TrainSettings


@dataclass(frozen=True)
class ModelSpec:
    """A network to build. ``weights``: local path of a safetensors file or null for a random start."""

    model: str
    num_classes: int
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    new_head: bool = False
    """The weights' classifier has another number of classes and is replaced by a fresh one."""


@dataclass(frozen=True)
class TrainJob:
    """``tables`` and ``validation`` are URIs of Parquet parts that hold at least the columns image_id, role, uri,
    offset, size_bytes and class_id; of ``tables`` only rows whose role is in ``roles`` are used, of ``validation``
    only rows of role protected with a class_id."""

    stage: str
    student: ModelSpec
    settings: TrainSettings
    tables: tuple[str, ...]
    roles: tuple[str, ...]
    validation: tuple[str, ...] = ()
    teacher: ModelSpec | None = None
