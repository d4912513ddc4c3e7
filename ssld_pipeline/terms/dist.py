"""Correlation with the teacher in place of equality: for teachers that are much stronger than their student."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssld_pipeline.terms.term import Signals, Term

if TYPE_CHECKING:
    from torch import Tensor


class Dist(Term):
    """1 - Pearson correlation of probabilities, over the classes and over the images (arXiv:2205.10536).

    The relation between the images is that of each norm batch; it is a constant for one image. Not for a student whose
    classifier starts at zero: equal probabilities have gradients of up to some 1e6, in the official code as well.
    """

    refuses_equal_logits: ClassVar[bool] = True

    term: Literal["dist"] = "dist"
    beta: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Factor of the relation between the classes of an image."""
    gamma: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Factor of the relation between the images in a class."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Softens both distributions; the loss is multiplied by its square."""
    over: Literal["norm_batch"] = "norm_batch"
    """The images that gamma's relation is between: those of one batch norm statistic."""

    @model_validator(mode="after")
    def _has_a_part(self) -> Self:
        if self.beta == self.gamma == 0:
            raise ValueError("beta and gamma are both 0, so that nothing is learnt; give one of them a value")
        return self

    def per_row(self, signals: Signals) -> Tensor | None:
        from ssld_pipeline.kernels.relations import inter_class

        if self.beta == 0:
            return None
        assert signals.teacher is not None
        return self.beta * inter_class(signals.student, signals.teacher, self.temperature)

    def per_norm_batch(self, signals: Signals) -> Tensor | None:
        from ssld_pipeline.kernels.relations import intra_class

        if self.gamma == 0:
            return None
        assert signals.teacher is not None
        return self.gamma * intra_class(signals.student, signals.teacher, self.temperature)
