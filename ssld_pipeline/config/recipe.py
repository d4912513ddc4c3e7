"""How a network is trained: length, optimiser, sizes, augmentation; not what it learns from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ssld_pipeline.config.settings import Settings

FIRST_SETTINGS = frozenset(
    (
        *("epochs", "steps", "batch_size", "lr", "momentum", "weight_decay", "weight_decay_norm", "warmup_epochs"),
        *("image_size", "min_crop_area", "augment", "trainable", "seed"),
    )
)
"""Those that every fingerprint holds. A later setting is in it only where it is not at its default, so that a new one
leaves finished models valid; the default of such a setting must never change."""

WITHOUT_EFFECT = frozenset(("crop_pct", "validations", "max_reject_share"))
"""Settings that cannot change the weights: how a model is evaluated, and when a training gives up."""

_LARGEST_DEFAULT_NORM_BATCH = 256


class RecipeSettings(Settings):
    """Defaults are the publication's for MobileNetV3_large (PaddleClas, SSLD documentation)."""

    epochs: float = Field(360, gt=0)
    """Passes over the training images; ignored where `steps` is given."""
    steps: int | None = Field(None, gt=0)
    """Optimiser steps; null: epochs x images / batch_size."""
    batch_size: int = Field(5760, gt=0)
    """Images per optimiser step, over all processes together."""
    norm_batch: int | None = Field(None, gt=0)
    """Images per batch norm statistic; a divisor of batch_size. Part of the recipe, so that the number of processes is
    not: they share the batch_size / norm_batch parts of a batch. null: batch_size up to 256; above it a network with
    batch norm needs a value, and others take the largest divisor up to 256. Published: 32 for the ResNets, 240 for
    MobileNetV3."""
    lr: float = Field(3.65625, gt=0)
    """Peak learning rate, after the warm-up."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD momentum, without Nesterov."""
    weight_decay: float = Field(1e-5, ge=0)
    """L2 penalty."""
    weight_decay_norm: bool = True
    """Apply weight_decay to batch norm and other normalisation too (the publication: yes, except MobileNetV3)."""
    warmup_epochs: float = Field(5, ge=0)
    """Linear warm-up from 0; at most half of the run, a tenth where `steps` is given."""
    image_size: int = Field(224, gt=0)
    """Side of a training crop and of the evaluation crop, pixels."""
    crop_pct: float = Field(0.875, gt=0, le=1)
    """Evaluation: image_size over the resized short side."""
    min_crop_area: float = Field(0.08, gt=0, le=1)
    """Smallest area of a random crop, as a share of the image."""
    augment: Literal["basic"] = "basic"
    """basic: random resized crop and horizontal flip."""
    trainable: Literal["all", "classifier"] = "all"
    """classifier: everything but the last layer is frozen, its batch norm included."""
    validations: int = Field(10, ge=0)
    """How often the protected inputs are evaluated during the run, evenly spread, the end included."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """A run that in an epoch loses a larger share than this (and more than 10) of the labelled or of the pool's images
    stops, and no model is committed. Of images that cannot be read any number above the share stops it."""
    seed: int = 0
    """Decides initial weights, order of images and augmentation."""

    @property
    def images_per_norm(self) -> int:
        """Images per batch norm statistic, and of what processes share: ``norm_batch``, or its default.

        The default above 256, the largest divisor up to 256, serves networks without batch norm only.
        """
        if self.norm_batch or self.batch_size <= _LARGEST_DEFAULT_NORM_BATCH:
            return self.norm_batch or self.batch_size
        return next(n for n in range(_LARGEST_DEFAULT_NORM_BATCH, 0, -1) if self.batch_size % n == 0)

    @property
    def needs_norm_batch(self) -> bool:
        """Whether a network with batch norm cannot be trained with these settings, as ``norm_batch`` has no default."""
        return self.norm_batch is None and self.batch_size > _LARGEST_DEFAULT_NORM_BATCH

    @property
    def num_micro_batches(self) -> int:
        """Parts of a batch that processes may share."""
        return self.batch_size // self.images_per_norm

    def recipe_of_fingerprint(self) -> dict[str, Any]:
        """The settings of this class that can change the weights. ``epochs`` does not where ``steps`` is given."""
        ignored = WITHOUT_EFFECT | ({"epochs"} if self.steps is not None else set())
        own = [name for name in RecipeSettings.model_fields if name not in ignored]
        values = self.model_dump(mode="json", include=set(own))
        default = type(self).model_construct(batch_size=self.batch_size, norm_batch=None).images_per_norm
        values["norm_batch"] = None if self.norm_batch == default else self.norm_batch
        found = written(RecipeSettings, values, FIRST_SETTINGS)
        if not self.weight_decay_norm:
            found["spared"] = "normalisation"  # models of earlier versions spared the classifier's bias, too
        return found


def written(settings: type[Settings], values: dict[str, Any], always: frozenset[str]) -> dict[str, Any]:
    """Those of ``values`` that belong into a fingerprint: named in ``always``, or not at the setting's default."""
    defaults = {name: field.get_default(call_default_factory=True) for name, field in settings.model_fields.items()}
    return {name: value for name, value in values.items() if name in always or value != defaults[name]}
