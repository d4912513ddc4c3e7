"""The settings of one training run; the config sections ``train``, ``finetune``, ``baseline`` and ``teacher.fit``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssld_pipeline.config.settings import Settings

Loss = Literal["js", "symmetric_kl", "soft_ce", "kl", "ce"]


def section_of(stage: str) -> str:
    """The section of the config with the settings of a training stage."""
    return "teacher.fit" if stage == "fit_teacher" else stage


class TrainSettings(Settings):
    """Defaults are the publication's for MobileNetV3_large (PaddleClas, SSLD documentation)."""

    epochs: float = Field(360, gt=0)
    """Passes over the training images; ignored where `steps` is given."""
    steps: int | None = Field(None, gt=0)
    """Optimiser steps; null: epochs x images / batch_size."""
    batch_size: int = Field(5760, gt=0)
    """Images per optimiser step over all workers; a multiple of placement.train_workers."""
    lr: float = Field(3.65625, gt=0)
    """Peak learning rate, after the warm-up."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD momentum, without Nesterov."""
    weight_decay: float = Field(1e-5, ge=0)
    """L2 penalty."""
    weight_decay_norm: bool = True
    """Apply weight_decay to normalisation layers and biases too (the publication: yes, except MobileNetV3)."""
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
    loss: Loss = "js"
    """js, symmetric_kl, soft_ce, kl: between teacher and student. ce: the manifest's hard labels, no teacher.
    The published numbers come from symmetric_kl (PaddleClas calls it JS)."""
    temperature: float = Field(1.0, gt=0)
    """Softens both distributions; the loss is multiplied by its square."""
    teacher: Literal["online", "stored"] = "online"
    """online: the teacher sees the very batch the student sees, as the publication has it. stored: no teacher runs; the
    student sees the views that the label stage stored (`label.views`), in turn from epoch to epoch, and learns from
    their soft labels."""
    mismatched_views: Literal["refuse", "accept"] = "refuse"
    """With teacher: stored, whether the student may see the views in another size than the teacher did."""
    teacher_batch_norm: Literal["train", "eval"] = "train"
    """train: the teacher's batch norm uses the statistics of the batch (76.00 against 75.84 top-1 as published). Stored
    labels come from eval, which has to be said."""
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
    def replays(self) -> bool:
        """Whether the student learns from stored views in place of a teacher."""
        return self.teacher == "stored" and self.loss != "ce"
