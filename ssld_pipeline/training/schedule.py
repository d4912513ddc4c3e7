"""Steps and learning rates of a run, as pure functions of its settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssld_pipeline.config.recipe import RecipeSettings
from ssld_pipeline.errors import UserError


def require_a_batch(
    stage: str, section: str, settings: RecipeSettings, roles: Sequence[str], num_images: int, labelled_only: bool
) -> None:
    """UserError where the images, ``num_images`` of these roles, do not fill one batch."""
    if num_images < settings.batch_size:
        what = "labelled images" if labelled_only else "images"
        raise UserError(
            f"{stage}: a batch of {settings.batch_size} cannot be made of {num_images} {what} of role "
            f"{' or '.join(roles)}. Lower {section}.batch_size, or give more images"
        )


def steps_per_epoch(settings: RecipeSettings, num_images: int) -> int:
    """Whole batches in a pass over the images; the rest of a pass is left out. At least 1.

    A plan asks before the images are counted; `require_a_batch` is asked when they are.
    """
    return max(1, num_images // settings.batch_size)


def num_steps(settings: RecipeSettings, num_images: int) -> int:
    """Optimiser steps of the whole run, at least 1."""
    if settings.steps is not None:
        return settings.steps
    return max(1, round(settings.epochs * steps_per_epoch(settings, num_images)))


def num_warmup_steps(settings: RecipeSettings, num_images: int) -> int:
    """Steps of the linear warm-up; half of the run at most, a tenth where its length is given in steps."""
    steps = round(settings.warmup_epochs * steps_per_epoch(settings, num_images))
    return min(steps, num_steps(settings, num_images) // (2 if settings.steps is None else 10))


def lr_at(step: int, peak: float, warmup: int, total: int) -> float:
    """Learning rate of optimiser step ``step``, counted from 0: from 0 linearly to ``peak``, then a cosine to 0.

    PaddleClas: 5 epochs linear warm-up from 0, cosine per step.
    """
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def validation_steps(settings: RecipeSettings, total: int) -> frozenset[int]:
    """Numbers of steps done after which the protected inputs are evaluated: evenly spread, the end included."""
    count = min(settings.validations, total)
    return frozenset(round(total * (k + 1) / count) for k in range(count))
