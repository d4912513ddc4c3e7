"""What a network is, as a value: light enough for the command line, complete enough for a worker to build it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from ssld_pipeline.models.class_map import ClassMap

Combine = Literal["arithmetic", "geometric"]
Head = Literal["keep", "new", "auto"]


@dataclass(frozen=True)
class ModelSpec:
    """A network to build. ``weights``: local path of a safetensors file or torch checkpoint; null: a random start."""

    model: str
    num_classes: int
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    head: Head = "keep"
    """What becomes of the weights' classifier. keep: it is loaded. new: it is left out, and a fresh one starts at zero.
    auto: keep where it has as many classes as the network, else new."""

    def with_head(self, head: Head) -> Self:
        return replace(self, head=head)


@dataclass(frozen=True)
class Member:
    """One of several networks that are asked together.

    ``class_map``: from the classes of its head, as many as its weights have, to the run's; null: they are the run's.
    ``image_size``: side in pixels that views are scaled to for it; null: it takes them as they come.
    """

    spec: ModelSpec
    weight: float = 1.0
    temperature: float = 1.0
    class_map: ClassMap | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class EnsembleSpec(ModelSpec):
    """Networks whose distributions over ``num_classes`` are averaged; see ``models.ensemble``.

    It takes pixels normalised by its own ``mean`` and ``std``. ``model`` and ``weights`` name all members, for people.
    """

    members: tuple[Member, ...] = ()
    combine: Combine = "arithmetic"
