"""Soft labels of augmented views as the label stage stored them, mapped, for a student that replays these views."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from ssld_pipeline.errors import BadImage
from ssld_pipeline.training.row_store import digest_table, mapped_table, open_store
from ssld_pipeline.training.views import REPLAY_COLUMNS, Replay

# Of a probability: what was stored as 0 has no logarithm. Tails of a sure teacher, spread over hundreds of classes, are
# far below 1e-9 each: raised to that, they put symmetric_kl's gradient 14 % off where this gives 4 % (num_kept 20).
_LEAST = 1e-30
_COLUMNS = ["image_id", "view", "class_ids", "probs", "tail_prob", *REPLAY_COLUMNS]
_ARRAYS = ("class_ids", "probs", "tail_probs", "replays", "present")
_AT_ONCE = 1 << 20  # views whose images are looked up together: each look-up hashes all image_ids, 2.5 s for 5 million


class SoftLabel(NamedTuple):
    """The ``k`` most probable classes of a view ``[k]``, their probabilities ``[k]``, the mass of the others ``[]``; of
    a batch all with a first dimension N."""

    class_ids: NDArray[np.int32]
    probs: NDArray[np.float32]
    tail_prob: NDArray[np.float32]


@dataclass(frozen=True)
class StoredLabels:
    """Of image i (row i of the training images) and view 1 + v the label and what replays the view, at [i, v].

    8 bytes a class and 37 more per view are in files that all processes of a node map: 1 GB for 5 million views of 20
    classes.
    """

    class_ids: NDArray[np.int32]
    probs: NDArray[np.float32]
    tail_probs: NDArray[np.float32]
    replays: NDArray[np.float32]
    present: NDArray[np.bool_]

    def view(self, image: int, epoch: int) -> tuple[Replay, SoftLabel]:
        """The view whose turn it is: an image shows another one in every epoch until all were seen.

        BadImage where the view has no label.
        """
        place = image, (epoch + image) % self.present.shape[1]
        if not self.present[place]:
            raise BadImage("not_labelled", f"view {place[1] + 1} is not in soft_labels")
        left, top, width, height, flipped, *factors = self.replays[place].tolist()
        replay = Replay(left, top, width, height, bool(flipped), *factors)
        return replay, SoftLabel(self.class_ids[place], self.probs[place], np.asarray(self.tail_probs[place]))


def read_labels(
    tables: Sequence[str],
    image_ids: pa.ChunkedArray | pa.Array,
    num_views: int,
    num_kept: int,
    cache: str | None = None,
) -> StoredLabels:
    """The views 1 .. ``num_views`` of these images, the first ``num_kept`` classes of each, from parts of soft_labels.

    Views or classes beyond these are passed over, so that it does not matter whether a table holds more. ``cache``:
    local folder of the `row_store`; null: the default.
    """
    images = pa.table({"image_id": image_ids})
    arguments = {"tables": list(tables), "num_views": num_views, "num_kept": num_kept}
    store = open_store(
        cache,
        write_labels,
        arguments,
        {"images": images},
        content=digest_table(images),
        size_bytes=lambda: len(images) * num_views * (8 * num_kept + 37),
    )
    found = StoredLabels(*(np.asarray(np.load(store.folder / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS))
    store.used_by(found)
    return found


def write_labels(folder: Path, tables: Sequence[str], num_views: int, num_kept: int) -> None:
    """One NumPy file in ``folder`` per array of `StoredLabels`, for the images of ``images.arrow``."""
    image_ids = mapped_table(folder / "images.arrow")["image_id"].combine_chunks()
    shape = len(image_ids), num_views
    found = StoredLabels(
        _file(folder, "class_ids", np.int32, (*shape, num_kept)),
        _file(folder, "probs", np.float32, (*shape, num_kept)),
        _file(folder, "tail_probs", np.float32, shape),
        _file(folder, "replays", np.float32, (*shape, len(REPLAY_COLUMNS))),
        _file(folder, "present", np.bool_, shape),
    )
    for rows in _some_parts_at_once(tables, num_views):
        rows = rows.append_column("image", pc.index_in(rows["image_id"], image_ids))
        _fill(found, rows.filter(pc.is_valid(rows["image"])).combine_chunks())


def _file(folder: Path, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """A mapped array of zeros. OSError where the disk is full: later it would end the process."""
    path = folder / f"{name}.npy"
    found = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return found


def _some_parts_at_once(tables: Sequence[str], num_views: int) -> Iterator[pa.Table]:
    """Rows of the views 1 .. ``num_views``."""
    waiting: list[pa.Table] = []
    for uri in tables:
        with fsspec.open(uri, "rb") as file:
            part = pq.read_table(file, columns=_COLUMNS)
        waiting.append(part.filter(pc.and_(pc.greater(part["view"], 0), pc.less_equal(part["view"], num_views))))
        if sum(part.num_rows for part in waiting) >= _AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _fill(found: StoredLabels, part: pa.Table) -> None:
    if not part.num_rows:
        return
    places = part["image"].to_numpy(), part["view"].to_numpy() - 1
    num_kept = found.class_ids.shape[2]
    probs, tail_probs = _first(part["probs"], num_kept), part["tail_prob"].to_numpy()
    found.class_ids[places], found.probs[places] = _first(part["class_ids"], num_kept), probs
    found.tail_probs[places] = _tail_beyond(probs, _sums(part["probs"]), tail_probs)
    for number, name in enumerate(REPLAY_COLUMNS):
        found.replays[(*places, np.full(part.num_rows, number))] = part[name].to_numpy()
    found.present[places] = True


def _tail_beyond(
    probs: NDArray[np.generic], sums: NDArray[np.float64], tail_probs: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The tail of labels that are cut to ``probs [rows, k]``: what was stored, and the classes that are left out.

    ``sums [rows]``: of all stored probabilities. What is left out is scaled as the kept classes are.
    """
    left_out: NDArray[np.float64] = np.maximum(sums - probs.astype(np.float64).sum(axis=1), 0.0)
    left_out *= (1.0 - tail_probs) / sums
    return left_out + tail_probs


def _sums(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """The sum of each list ``[rows]``; lists are not empty."""
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    offsets = lists.offsets.to_numpy()
    values = lists.values.to_numpy()[: offsets[-1]].astype(np.float64)
    sums: NDArray[np.float64] = np.add.reduceat(values, offsets[:-1])
    return sums


def _first(column: pa.ChunkedArray, count: int) -> NDArray[np.generic]:
    """The first ``count`` values of each list, ``[rows, count]``; lists are at least that long."""
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    places = lists.offsets.to_numpy()[:-1, None] + np.arange(count)
    values: NDArray[np.generic] = lists.values.to_numpy()[places]
    return values


def stack(labels: Sequence[SoftLabel]) -> SoftLabel:
    """Those of a batch as one."""
    class_ids, probs, tail_prob = (np.stack(values) for values in zip(*labels, strict=True))
    return SoftLabel(class_ids, probs, tail_prob)


def logits_of(labels: SoftLabel | tuple[Tensor, ...], num_classes: int, device: str = "cpu") -> Tensor:
    """Logits ``[N, num_classes]`` whose softmax is the stored distribution: the kept probabilities times a factor so
    that they sum to 1 - tail_prob, the tail spread evenly over the rest; without a rest there is no tail.

    As ``kernels.soft_label.dense``, on any device; a probability below 1e-30 becomes that.
    """
    class_ids, probs, tail_probs = (torch.as_tensor(values, device=device) for values in labels)
    num_rest = num_classes - class_ids.shape[1]
    tail_probs = tail_probs if num_rest else torch.zeros_like(tail_probs)
    rows = (tail_probs / max(num_rest, 1))[:, None].repeat(1, num_classes)
    kept = probs * ((1 - tail_probs) / probs.sum(dim=1))[:, None]
    return rows.scatter_(1, class_ids.long(), kept).clamp_(min=_LEAST).log_()
