"""Cross entropy against class numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ssld_pipeline.terms.term import Signals, Term

if TYPE_CHECKING:
    from torch import Tensor


class HardCe(Term):
    """Cross entropy against the class of an image; needs no teacher."""

    needs_teacher: ClassVar[bool] = False

    term: Literal["hard_ce"] = "hard_ce"
    rows: Literal["labeled", "all"] = "labeled"
    """labeled: only images with a true class count. all: others count with the class they were selected for."""
    label_smoothing: float = Field(0.0, ge=0, lt=1, allow_inf_nan=False)
    """Share of the target that is spread evenly over all classes (Szegedy et al., arXiv:1512.00567)."""

    def per_row(self, signals: Signals) -> Tensor:
        from torch.nn.functional import cross_entropy

        logits = signals.student
        precise = logits if logits.itemsize == 8 else logits.float()
        targets = self._targets(signals.class_ids, signals.mined_ids).clamp(min=0)
        return cross_entropy(precise, targets, reduction="none", label_smoothing=self.label_smoothing)

    def counted(self, class_ids: Tensor, mined_ids: Tensor) -> Tensor:
        return self._targets(class_ids, mined_ids) >= 0

    def _targets(self, class_ids: Tensor, mined_ids: Tensor) -> Tensor:
        return mined_ids if self.rows == "all" else class_ids
