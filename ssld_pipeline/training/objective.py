"""What a network learns from: the weighted sum of terms, as the mean over the images, or norm batches, of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssld_pipeline.terms.term import Signals, Term
from ssld_pipeline.training.group import Group


class Objective:
    """Its losses of the parts of a batch add up to the loss of the batch, however these are spread over processes."""

    def __init__(self, terms: Sequence[Term], batch_size: int, group: Group) -> None:
        self._terms, self._batch_size, self._group = tuple(terms), batch_size, group

    def num_counted(self, class_ids: Tensor, mined_ids: Tensor) -> list[Tensor | int]:
        """Of each term the rows of the whole batch that count, at least 1.

        ``class_ids``, ``mined_ids``: int64, of all images of this process. All processes call it at the same step;
        nothing is read back from the device.
        """
        found = [term.counted(class_ids, mined_ids) for term in self._terms]
        own = [counted.sum() for counted in found if counted is not None]
        summed = iter(self._group.sum(torch.stack(own)).clamp(min=1)) if own else iter(())
        return [self._batch_size if counted is None else next(summed) for counted in found]

    def losses(self, signals: Signals, num_counted: Sequence[Tensor | int], norm_batch: int) -> Tensor:
        """What each ``norm_batch`` images of ``signals`` contribute to the loss of the batch, ``[N / norm_batch]``."""
        losses = signals.student.new_zeros(len(signals.student) // norm_batch, dtype=torch.float32)
        for term, number in zip(self._terms, num_counted, strict=True):
            if (of_rows := _of_rows(term, signals)) is not None:
                losses = losses + term.weight * of_rows.view(-1, norm_batch).sum(dim=1) / number
            if (of_norm_batches := _of_norm_batches(term, signals, norm_batch)) is not None:
                losses = losses + term.weight * of_norm_batches / (self._batch_size // norm_batch)
        return losses


def _of_rows(term: Term, signals: Signals) -> Tensor | None:
    """Its loss of each image, 0 for those that do not count."""
    per_row, counted = term.per_row(signals), term.counted(signals.class_ids, signals.mined_ids)
    if per_row is None:
        return None
    assert per_row.shape == signals.class_ids.shape, f"{term.name} must give a loss per image"
    return per_row if counted is None else torch.where(counted, per_row, 0)


def _of_norm_batches(term: Term, signals: Signals, size: int) -> Tensor | None:
    found = [term.per_norm_batch(part) for part in signals.norm_batches(size)]
    given = [loss for loss in found if loss is not None]
    assert all(loss.ndim == 0 for loss in given), f"{term.name} must give one loss per norm batch"
    return torch.stack(given) if given else None
