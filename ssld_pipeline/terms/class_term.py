"""Terms that need the class of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ssld_pipeline.terms.term import Signals, Term

if TYPE_CHECKING:
    from torch import Tensor


class ClassTerm(Term):
    rows: Literal["labeled", "all"] = "labeled"
    """labeled: only images with a true class count. all: others count with the class they were selected for."""

    def counted(self, class_ids: Tensor, mined_ids: Tensor) -> Tensor:
        return self._classes(class_ids, mined_ids) >= 0

    def classes(self, signals: Signals) -> Tensor:
        """Of each image; 0 for those that do not count."""
        return self._classes(signals.class_ids, signals.mined_ids).clamp(min=0)

    def _classes(self, class_ids: Tensor, mined_ids: Tensor) -> Tensor:
        return mined_ids if self.rows == "all" else class_ids
