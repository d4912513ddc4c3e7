"""Logit matching: what ``kl`` becomes at a very high temperature, computed without the rounding of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ssld_pipeline.terms.term import Signals, Term

if TYPE_CHECKING:
    from torch import Tensor


class LogitsMse(Term):
    """Squared difference of row-centred logits, summed over classes, over 2 x classes (Hinton, arXiv:1503.02531)."""

    term: Literal["logits_mse"] = "logits_mse"

    def per_row(self, signals: Signals) -> Tensor:
        from ssld_pipeline.kernels.divergences import logits_mse

        assert signals.teacher is not None
        return logits_mse(signals.student, signals.teacher, reduction="none")
