"""Cross entropy against class numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ssld_pipeline.terms.class_term import ClassTerm
from ssld_pipeline.terms.term import Signals

if TYPE_CHECKING:
    from torch import Tensor


class HardCe(ClassTerm):
    """Cross entropy against the class of an image; needs no teacher."""

    needs_teacher: ClassVar[bool] = False

    term: Literal["hard_ce"] = "hard_ce"
    label_smoothing: float = Field(0.0, ge=0, lt=1, allow_inf_nan=False)
    """Share of the target that is spread evenly over all classes (Szegedy et al., arXiv:1512.00567)."""

    def per_row(self, signals: Signals) -> Tensor:
        from torch.nn.functional import cross_entropy

        logits = signals.student
        precise = logits if logits.itemsize == 8 else logits.float()
        return cross_entropy(precise, self.classes(signals), reduction="none", label_smoothing=self.label_smoothing)
