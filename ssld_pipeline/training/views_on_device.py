"""Batches on the device that computes, and the parts in which they pass through networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ssld_pipeline.training.data import Batch

_SLOTS = 3  # one is filled, one is copied, one may still be read by the copy before


Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Views:
    """Some images of a batch on the device: ``pixels`` uint8 [N,S,S,3], ``class_ids`` and ``mined_ids`` int64 [N],
    ``labels``: the fields of a stored soft label with a first dimension N. ``first``: the number of the first norm
    batch among them, counted over the batch."""

    pixels: Tensor
    class_ids: Tensor
    mined_ids: Tensor
    labels: tuple[Tensor, ...] | None
    first: int

    def parts(self, norm_batch: int, per_part: int) -> Iterator[Views]:
        """Whole norm batches, ``per_part`` at once."""
        size = norm_batch * per_part
        for number, start in enumerate(range(0, len(self.pixels), size)):
            own = slice(start, start + size)
            labels = self.labels and tuple(values[own] for values in self.labels)
            first = self.first + number * per_part
            yield Views(self.pixels[own], self.class_ids[own], self.mined_ids[own], labels, first)


def on_device(batches: Iterable[Batch], device: str, first: int) -> Iterator[tuple[Batch, Views]]:
    """Each batch with its tensors on ``device``; ``first``: the number of this process's first norm batch.

    A GPU is sent the next batch while it computes with this one, out of pinned memory that is used again.
    """
    arrays = ((batch, _arrays(batch)) for batch in batches)
    moved = _in_place(arrays) if device == "cpu" else _ahead(arrays, device)
    for batch, (pixels, class_ids, mined_ids, *labels) in moved:
        yield batch, Views(pixels, class_ids, mined_ids, tuple(labels) or None, first)


def _arrays(batch: Batch) -> Arrays:
    return [batch.views, batch.class_ids, batch.mined_ids, *(batch.labels or ())]


def _in_place(batches: Iterable[tuple[Batch, Arrays]]) -> Iterator[tuple[Batch, list[Tensor]]]:
    for batch, arrays in batches:
        yield batch, [torch.from_numpy(values) for values in arrays]


@dataclass
class _Slot:
    """Pinned memory for a batch, and when its last copy to the device was done."""

    pinned: list[Tensor] = field(default_factory=list)
    copied: torch.cuda.Event | None = None

    def fill(self, arrays: Arrays) -> list[Tensor]:
        if self.copied is not None:
            self.copied.synchronize()  # two batches ago: long done
        tensors = [torch.from_numpy(values) for values in arrays]
        if [t.shape for t in self.pinned] != [t.shape for t in tensors]:
            self.pinned = [torch.empty_like(t, pin_memory=True) for t in tensors]
        for pinned, tensor in zip(self.pinned, tensors, strict=True):
            pinned.copy_(tensor)
        return self.pinned


def _ahead(batches: Iterable[tuple[Batch, Arrays]], device: str) -> Iterator[tuple[Batch, list[Tensor]]]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    slots = [_Slot() for _ in range(_SLOTS)]
    waiting: tuple[Batch, list[Tensor], torch.cuda.Event] | None = None
    for number, (batch, arrays) in enumerate(batches):
        slot = slots[number % _SLOTS]
        pinned = slot.fill(arrays)
        with torch.cuda.stream(stream):
            tensors = [tensor.to(device, non_blocking=True) for tensor in pinned]
            slot.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            slot.copied.record(stream)
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = batch, tensors, slot.copied
    if waiting is not None:
        yield _arrived(*waiting)


def _arrived(batch: Batch, tensors: list[Tensor], copied: torch.cuda.Event) -> tuple[Batch, list[Tensor]]:
    """The computing stream waits for the copy, the host does not; memory is kept until that stream is past it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)
    for tensor in tensors:
        tensor.record_stream(stream)
    return batch, tensors
