"""A term of an objective: its settings, and the loss it computes from what networks say of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Signals:
    """What a term is computed from, for N images on one device.

    ``student``: logits ``[N, classes]``. ``teacher``: the same of the teacher, without gradient; None where there is
    none. ``class_ids`` int64 ``[N]``: true classes, -1 where an image has none. ``mined_ids`` int64 ``[N]``: the class
    that an image was selected for, the true one of labelled images; -1 where it has neither.
    """

    student: Tensor
    teacher: Tensor | None
    class_ids: Tensor
    mined_ids: Tensor

    def norm_batches(self, size: int) -> Iterator[Signals]:
        """Those of each ``size`` images, which divides their number."""
        for first in range(0, len(self.student), size):
            own = slice(first, first + size)
            teacher = None if self.teacher is None else self.teacher[own]
            yield Signals(self.student[own], teacher, self.class_ids[own], self.mined_ids[own])


class Term(BaseModel):
    """Base of all terms. A subclass has the field ``term``, its name in a config, and computes ``per_row``, or
    ``per_norm_batch`` where images are compared with one another, or both.

    The loss of a batch is the sum over terms of ``weight`` times the mean of ``per_row`` over the rows that count, plus
    the mean of ``per_norm_batch`` over the norm batches of the batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    needs_teacher: ClassVar[bool] = True
    refuses_equal_logits: ClassVar[bool] = False
    """Whether it cannot begin with a student that says the same of all classes, as one with a new classifier does."""

    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Factor of this term in the loss."""

    @property
    def name(self) -> str:
        """The name in a config."""
        return str(type(self).model_fields["term"].default)

    def of_fingerprint(self) -> dict[str, Any]:
        """Its name, and the settings that are not at their defaults: these must therefore never change."""
        return {"term": self.name, **self.model_dump(mode="json", exclude_defaults=True)}

    def per_row(self, signals: Signals) -> Tensor | None:
        """Loss of each image, float32 or float64 ``[N]``, without ``weight``; any finite value where ``counted`` is
        False. None: the term has no such part."""
        return None

    def per_norm_batch(self, signals: Signals) -> Tensor | None:
        """Loss of the images of one norm batch, float32 or float64 ``[]``, without ``weight``; ``counted`` is the
        term's own affair here. None: the term has no such part."""
        return None

    def counted(self, class_ids: Tensor, mined_ids: Tensor) -> Tensor | None:
        """Which rows count, bool ``[N]``, given these of ``Signals``; null: all."""
        return None
