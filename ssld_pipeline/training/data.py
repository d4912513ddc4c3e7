"""The images of a run: their rows, their order in an epoch, and batches of augmented views made ahead by threads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import BadImage, UserError
from ssld_pipeline.inputs.ahead import ahead
from ssld_pipeline.inputs.read import ImageReader
from ssld_pipeline.kernels.images import decode
from ssld_pipeline.training.augmentation import cut, draw_crop, random_generator
from ssld_pipeline.training.settings import TrainSettings

_COLUMNS = ["image_id", "role", "uri", "offset", "size_bytes", "class_id"]
_MOST_SUBSTITUTES = 20


@dataclass(frozen=True)
class Batch:
    """``views`` uint8 [N,S,S,3]; ``class_ids`` int64 [N], -1 where unknown."""

    views: NDArray[np.uint8]
    class_ids: NDArray[np.int64]


def read_rows(tables: Sequence[str], roles: Sequence[str], labelled: bool) -> pa.Table:
    """The rows of these roles, sorted by image_id, so that the order of parts does not matter.

    ``labelled``: leave out rows without class_id.
    """
    parts = []
    for uri in tables:
        with fsspec.open(uri, "rb") as file:
            parts.append(pq.read_table(file, columns=_COLUMNS).replace_schema_metadata(None))
    if not parts:
        raise UserError(f"there are no images of role {' or '.join(roles)} to train or evaluate on")
    rows = pa.concat_tables(parts)
    rows = rows.filter(pc.is_in(rows["role"], pa.array(roles)))
    if labelled:
        rows = rows.filter(pc.is_valid(rows["class_id"]))
    return rows.sort_by("image_id").combine_chunks()


def epoch_order(seed: int, epoch: int, num_images: int) -> NDArray[np.int64]:
    """The row numbers in the order of an epoch; the same on every rank."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)


@dataclass
class TrainImages:
    """Batches of one rank's share. ``rejects``: images that could not be used, once each; others took their place."""

    rows: pa.Table
    settings: TrainSettings
    rank: int = 0
    world_size: int = 1
    rejects: dict[str, Reject] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.settings.batch_size % self.world_size:
            raise UserError(
                f"batch_size {self.settings.batch_size} cannot be shared by {self.world_size} training workers; "
                "make it a multiple of placement.train_workers"
            )
        self._uris = self.rows["uri"].combine_chunks()
        self._offsets = self.rows["offset"].to_numpy()
        self._sizes = self.rows["size_bytes"].to_numpy()
        self._class_ids = pc.fill_null(self.rows["class_id"], -1).to_numpy().astype(np.int64)
        self._reader = ImageReader()

    def batches(self, first_step: int, last_step: int, num_threads: int) -> Iterator[Batch]:
        """The batches of steps ``first_step`` .. ``last_step - 1``, counted over the whole run."""
        share = self.settings.batch_size // self.world_size
        places = ahead(self._view, self._places(first_step, last_step), num_threads)
        for _ in range(first_step, last_step):
            views, class_ids = zip(*(next(places) for _ in range(share)), strict=True)
            yield Batch(np.stack(views), np.array(class_ids, dtype=np.int64))

    def _places(self, first_step: int, last_step: int) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """(epoch, place in the epoch's order, that order) for each image of this rank."""
        batch = self.settings.batch_size
        steps_per_epoch = len(self.rows) // batch
        epoch, order = -1, np.zeros(0, np.int64)
        for step in range(first_step, last_step):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                order = epoch_order(self.settings.seed, epoch, len(self.rows))
            start = step % steps_per_epoch * batch
            for place in range(start + self.rank, start + batch, self.world_size):
                yield epoch, place, order

    def _view(self, where: tuple[int, int, NDArray[np.int64]]) -> tuple[NDArray[np.uint8], int]:
        """An augmented view and its class; a bad image is replaced by one from half an epoch further on."""
        epoch, place, order = where
        for attempt in range(_MOST_SUBSTITUTES):
            row = int(order[(place + attempt * (len(order) // 2 + 1)) % len(order)])
            try:
                return self._load(row, epoch, place), int(self._class_ids[row])
            except BadImage as bad:
                image_id = self.rows["image_id"][row].as_py()
                self.rejects[image_id] = Reject(image_id, bad.reason, bad.detail)
        raise UserError(f"{_MOST_SUBSTITUTES} images in a row cannot be read, the last: {image_id}: {bad_detail(self.rejects[image_id])}")

    def _load(self, row: int, epoch: int, place: int) -> NDArray[np.uint8]:
        data = self._reader.read(self._uris[row].as_py(), int(self._offsets[row]), int(self._sizes[row]))
        size, area = self.settings.image_size, self.settings.min_crop_area
        # The narrowest crop is sqrt(area * 3/4) of the short side: decoding smaller than this would blur it.
        image = decode(data, min_short_side=math.ceil(size / math.sqrt(area * 3 / 4)))
        height, width = image.pixels.shape[:2]
        crop = draw_crop(width, height, area, random_generator(self.settings.seed, epoch, place))
        return cut(image.pixels, crop, size)


def bad_detail(reject: Reject) -> str:
    return f"{reject.reason} {reject.detail}".strip()
