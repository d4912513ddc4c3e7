"""Hinton's loss in two parts, each with its own weight. The formula is in ``kernels.decoupled``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ssld_pipeline.terms.class_term import ClassTerm
from ssld_pipeline.terms.term import Signals

if TYPE_CHECKING:
    from torch import Tensor


class DecoupledKd(ClassTerm):
    """KL(t||s) with separate factors for the class of an image and for the other classes (arXiv:2203.08679).

    Published: beta 0.5 at temperature 1 for ImageNet, 8 at temperature 4 for CIFAR-100, beside hard_ce.
    """

    term: Literal["decoupled_kd"] = "decoupled_kd"
    alpha: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Factor of the divergence between (class of the image, any other)."""
    beta: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Factor of the divergence over the other classes, which `kl` weighs with the teacher's probability of them."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Softens both distributions; the loss is multiplied by its square."""

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.alpha == self.beta == 0:
            raise ValueError("alpha and beta are both 0, so that nothing is learnt; give one of them a value")
        return self

    def per_row(self, signals: Signals) -> Tensor:
        from ssld_pipeline.kernels.decoupled import decoupled_kl

        assert signals.teacher is not None
        of_class, of_others = decoupled_kl(signals.student, signals.teacher, self.classes(signals), self.temperature)
        return self.alpha * of_class + self.beta * of_others
