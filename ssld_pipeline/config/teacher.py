"""The teacher: one network or several, and how its weights are first finetuned."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ssld_pipeline.config.inputs import InputConfig
from ssld_pipeline.config.recipe import RecipeSettings
from ssld_pipeline.config.settings import Means, Settings, Stds
from ssld_pipeline.models.spec import Combine


class TeacherNetworkConfig(Settings):
    """One network that labels."""

    model: str
    """`timm:<name>`, `torchvision:<name>` or `ssld:<name>` (res2net200_vd_26w_4s, which the others lack)."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the model's constructor."""
    weights: str | None
    """safetensors file, or a checkpoint that torch reads with weights_only; null where `fit` trains from scratch."""
    image_size: int = Field(224, gt=0)
    """Side of the centre crop, pixels. A further teacher is given the first one's view, scaled to this."""
    mean: Means = (0.485, 0.456, 0.406)
    """Per channel (RGB), for pixels scaled to [0,1]."""
    std: Stds = (0.229, 0.224, 0.225)
    """Per channel (RGB), for pixels scaled to [0,1]."""
    licence: str | None = None
    """Licence of the weights, as an SPDX name; recorded with the labels and with every model made with them."""
    temperature: float = Field(1.0, gt=0)
    """Its logits are divided by this before they become probabilities; above 1 its labels are less sure."""
    weight: float = Field(1.0, gt=0)
    """Its share among several teachers, over the sum of all weights; a single one has none."""
    class_map: str | None = None
    """Text file for a teacher whose classes are not the run's: lines `number of its class, name of the run's class`.
    Several of its classes may be one of the run: their probabilities add up. Those without a line are dropped and the
    rest is made to sum to 1. Default: class i of its head is class i of the run."""


class FitConfig(RecipeSettings):
    """Finetunes the teacher's weights to the run's classes, with cross entropy against the labels."""

    epochs: float = Field(10, gt=0)
    """Passes over the images; ignored where `steps` is given."""
    batch_size: int = Field(64, gt=0)
    """Images per optimiser step over all workers."""
    lr: float = Field(0.01, gt=0)
    """Peak learning rate, after the warm-up."""
    warmup_epochs: float = Field(0.5, ge=0)
    """Linear warm-up from 0."""
    loss: Literal["ce"] = "ce"
    """The labels of `data`, or of the labeled inputs."""
    data: InputConfig | None = None
    """Labelled images to fit on; default: the labeled inputs."""
    held_out: float = Field(0.1, ge=0, le=0.5)
    """Share of the labelled images, at most 2,000, that the teacher is not fitted on and that check_teacher measures it
    on. 0: fit on all; then check_teacher measures on images that the teacher has seen."""


class OtherTeacherConfig(TeacherNetworkConfig):
    weights: str
    """safetensors file, or a checkpoint that torch reads with weights_only."""


class TeacherConfig(TeacherNetworkConfig):
    crop_pct: float = Field(0.875, gt=0, le=1)
    """image_size over the resized short side."""
    min_top1: float = Field(0.5, ge=0, le=1)
    """Lowest accuracy on labelled images with which labelling may start; wrong weights or class order give chance."""
    more: tuple[OtherTeacherConfig, ...] = ()
    """Further teachers. The label is the mean of what all of them say."""
    combine: Combine = "arithmetic"
    """arithmetic: the mean of the distributions. geometric: of their logarithms, normalised; what one teacher excludes
    all exclude."""
    fit: FitConfig | None = None
    """First finetune the weights to the run's classes. image_size and crop_pct are the teacher's unless given."""

    @model_validator(mode="before")
    @classmethod
    def _fit_at_own_size(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("fit"), dict):
            sizes = {k: data[k] for k in ("image_size", "crop_pct") if k in data}
            return {**data, "fit": {**sizes, **data["fit"]}}
        return data

    @model_validator(mode="after")
    def _fit_is_of_one_network(self) -> Self:
        for name in ("more", "class_map"):
            if self.fit and getattr(self, name):
                raise ValueError(
                    f"fit and {name} exclude each other: finetune each teacher in a separate run (ssld fit-teacher), "
                    f"then name the weights it made here"
                )
        return self
