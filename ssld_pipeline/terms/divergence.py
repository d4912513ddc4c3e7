"""Terms that compare the distributions of student and teacher. The formulas are in ``kernels.divergences``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ssld_pipeline.terms.term import Signals, Term

if TYPE_CHECKING:
    from torch import Tensor


class DivergenceTerm(Term):
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Softens both distributions; the loss is multiplied by its square."""

    def per_row(self, signals: Signals) -> Tensor:
        from ssld_pipeline.kernels.divergences import objective

        assert signals.teacher is not None
        return objective(self.name)(signals.student, signals.teacher, self.temperature, reduction="none")


class SymmetricKl(DivergenceTerm):
    """Half of KL(t||s) + KL(s||t): the loss of the published numbers (PaddleClas calls it JS)."""

    term: Literal["symmetric_kl"] = "symmetric_kl"


class Js(DivergenceTerm):
    """The Jensen-Shannon divergence of the textbook, at most ln 2."""

    term: Literal["js"] = "js"


class Kl(DivergenceTerm):
    """KL(t||s), Hinton's distillation loss."""

    term: Literal["kl"] = "kl"


class ReverseKl(DivergenceTerm):
    """KL(s||t): the student keeps to the classes that the teacher favours, rather than covering all of them."""

    term: Literal["reverse_kl"] = "reverse_kl"


class SoftCe(DivergenceTerm):
    """Cross entropy against the teacher's distribution."""

    term: Literal["soft_ce"] = "soft_ce"
