"""The images of a run: their rows, their order in an epoch, and batches of augmented views made ahead by threads."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ssld_pipeline.config.recipe import RecipeSettings
from ssld_pipeline.contracts import CATALOG, Reject
from ssld_pipeline.errors import BadImage, UserError
from ssld_pipeline.inputs.read import ImageReader
from ssld_pipeline.kernels.ahead import ahead
from ssld_pipeline.kernels.images import decode
from ssld_pipeline.training.augmentation import cut, draw_crop, random_generator
from ssld_pipeline.training.job import StoredTeacher, TrainJob
from ssld_pipeline.training.row_store import mapped_table, open_store, write_table
from ssld_pipeline.training.stored_labels import SoftLabel, StoredLabels, read_labels, stack
from ssld_pipeline.training.views import least_short_side, replay_view

_COLUMNS = ["image_id", "role", "uri", "offset", "size_bytes", "class_id"]
_MOST_SUBSTITUTES = 20
_ROW_BYTES = 150  # about: two names of 50 characters, and numbers


class Lost(NamedTuple):
    """An image whose place another took: its role, and the reason."""

    role: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """``views`` uint8 [N,S,S,3]; ``class_ids`` int64 [N], the true classes, -1 where unknown; ``mined_ids`` int64 [N]:
    the classes that images were selected for, the true ones of labelled images; ``rows`` int64 [N]: the images' row
    numbers; ``labels``: of views that are replayed, the stored soft labels as one, with a first dimension N; ``lost``:
    of images that belong here and could not be used."""

    views: NDArray[np.uint8]
    class_ids: NDArray[np.int64]
    mined_ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    labels: SoftLabel | None = None
    lost: tuple[Lost, ...] = ()


class _View(NamedTuple):
    pixels: NDArray[np.uint8]
    class_id: int
    mined_id: int
    row: int
    label: SoftLabel | None
    lost: Lost | None


class Place(NamedTuple):
    """Number ``place`` of the epoch's ``order``, which holds row numbers."""

    epoch: int
    place: int
    order: NDArray[np.integer]


def read_rows(
    tables: Sequence[str],
    roles: Sequence[str],
    labelled: bool,
    left_out: Sequence[str] = (),
    cache: str | None = None,
) -> pa.Table:
    """The rows of these roles, sorted by image_id, so that neither order nor size of parts matters.

    ``tables``: URIs of Parquet parts. ``labelled``: leave out rows without class_id. ``left_out``: image_ids of rows to
    leave out. ``cache``: local folder of the `row_store`; null: the default. The table is a file that all processes of
    the node map; its column ``known_class`` is class_id with -1 for null.
    """
    arguments = {"tables": list(tables), "roles": sorted(roles), "labelled": labelled, "left_out": sorted(left_out)}
    store = open_store(cache, write_rows, arguments, size_bytes=lambda: _ROW_BYTES * _num_rows(tables))
    rows = mapped_table(store.folder / "rows.arrow")
    store.used_by(rows)
    return rows


def _num_rows(tables: Sequence[str]) -> int:
    found = 0
    for uri in tables:
        with fsspec.open(uri, "rb") as file:
            found += pq.read_metadata(file).num_rows
    return found


def write_rows(
    folder: Path, tables: Sequence[str], roles: Sequence[str], labelled: bool, left_out: Sequence[str]
) -> None:
    """``rows.arrow`` in ``folder``: what `read_rows` returns."""
    parts = [pa.schema([CATALOG.schema().field(name) for name in _COLUMNS]).empty_table()]
    for uri in tables:
        with fsspec.open(uri, "rb") as file:
            part = pq.read_table(file, columns=_COLUMNS).replace_schema_metadata(None)
        parts.append(part.filter(pc.is_in(part["role"], pa.array(roles, pa.string()))))
    rows = pa.concat_tables(parts, promote_options="permissive")
    if labelled:
        rows = rows.filter(pc.is_valid(rows["class_id"]))
    if left_out:
        rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(left_out, pa.string()))))
    rows = rows.append_column("known_class", pc.fill_null(rows["class_id"], -1))
    write_table(folder / "rows.arrow", rows.sort_by("image_id"))


def left_out_of(job: TrainJob) -> tuple[str, ...]:
    """image_ids that the job does not train on."""
    more = pq.read_table(job.left_out_file, columns=["image_id"]) if job.left_out_file else None
    return (*job.left_out, *(more["image_id"].to_pylist() if more else ()))


def epoch_order(seed: int, epoch: int, num_images: int) -> NDArray[np.integer]:
    """The row numbers in the order of an epoch, as uint32 where they fit; the same on every rank."""
    order: NDArray[Any] = np.arange(num_images, dtype=np.uint32 if num_images <= 1 << 32 else np.int64)
    random_generator(seed, epoch, -1).shuffle(order)
    return order


@dataclass
class TrainImages:
    """Batches of one rank's share. ``rejects``: images that could not be used, once each; others took their place.

    A rank has one run of consecutive places of each batch, so that norm batches, which are consecutive too, hold the
    same images whatever the number of ranks. The rest of an epoch that fills no batch is left out; as the order is
    drawn for each epoch, it is another each time. ``image_size``: side in pixels that views are cut at; null: that of
    the settings. ``cache``: as in `read_rows`.
    """

    rows: pa.Table
    settings: RecipeSettings
    rank: int = 0
    world_size: int = 1
    stored: StoredTeacher | None = None
    cache: str | None = None
    rejects: dict[str, Reject] = field(default_factory=dict)
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.settings.batch_size % self.world_size:
            raise UserError(
                f"batch_size {self.settings.batch_size} cannot be shared by {self.world_size} training workers; "
                "make it a multiple of placement.train_workers"
            )
        self._uris = self.rows["uri"]
        self._offsets = self.rows["offset"].to_numpy()
        self._sizes = self.rows["size_bytes"].to_numpy()
        is_mapped = "known_class" in self.rows.column_names  # a table that `read_rows` made needs no copy
        mined_ids = self.rows["known_class"] if is_mapped else pc.fill_null(self.rows["class_id"], -1)
        self._mined_ids = mined_ids.to_numpy()
        self._roles = self.rows["role"]
        self._reader = ImageReader()
        self._labels: StoredLabels | None = None
        if self.stored is not None:
            stored = self.stored
            image_ids = self.rows["image_id"]
            self._labels = read_labels(stored.tables, image_ids, stored.num_views, stored.num_kept, self.cache)

    def batches(self, first_step: int, last_step: int, num_threads: int) -> Generator[Batch]:
        """The batches of steps ``first_step`` .. ``last_step - 1``, counted over the whole run.

        Some two batches are made ahead: `ahead` keeps four results per thread waiting, here each of several views.
        """
        share = self.settings.batch_size // self.world_size
        pieces = _pieces(self.places(first_step, last_step), max(1, share // (2 * num_threads)))
        views = chain.from_iterable(ahead(self._views, pieces, num_threads))
        for _ in range(first_step, last_step):
            pixels, class_ids, mined_ids, rows, labels, lost = zip(*islice(views, share), strict=True)
            stored = stack(labels) if self._labels else None
            classes, mined, numbers = (np.array(values, dtype=np.int64) for values in (class_ids, mined_ids, rows))
            yield Batch(np.stack(pixels), classes, mined, numbers, stored, tuple(filter(None, lost)))

    def places(self, first_step: int, last_step: int) -> Iterator[Place]:
        """Those of this rank, step by step."""
        batch_size, share = self.settings.batch_size, self.settings.batch_size // self.world_size
        steps_per_epoch = len(self.rows) // batch_size
        epoch, order = -1, epoch_order(0, 0, 0)
        for step in range(first_step, last_step):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                order = epoch_order(self.settings.seed, epoch, len(self.rows))
            start = step % steps_per_epoch * batch_size + self.rank * share
            for place in range(start, start + share):
                yield Place(epoch, place, order)

    def _views(self, piece: list[Place]) -> list[_View]:
        return [self._view(*place) for place in piece]

    def _view(self, epoch: int, place: int, order: NDArray[np.integer]) -> _View:
        """An augmented view, its class and its stored label, if any.

        The next image in order takes the place of one that cannot be used.
        """
        bad: BadImage | None = None
        lost: Lost | None = None
        for attempt in range(_MOST_SUBSTITUTES):
            row = int(order[(place + attempt) % len(order)])
            try:
                pixels, label = self._load(row, epoch, place)
                return _View(pixels, *self._class_ids(row), row, label, lost)
            except BadImage as error:
                bad, image_id = error, self.rows["image_id"][row].as_py()
                lost = lost or Lost(self.rows["role"][row].as_py(), error.reason)
                self.rejects[image_id] = Reject(image_id, error.reason, error.detail)
        raise UserError(f"{_MOST_SUBSTITUTES} images in a row cannot be used for training, the last: {image_id}: {bad}")

    def _class_ids(self, row: int) -> tuple[int, int]:
        """The true class, -1 where unknown, and the class that the image was selected for."""
        mined_id = int(self._mined_ids[row])
        return -1 if self._roles[row].as_py() == "pool" else mined_id, mined_id

    def _load(self, row: int, epoch: int, place: int) -> tuple[NDArray[np.uint8], SoftLabel | None]:
        size, area = self.image_size or self.settings.image_size, self.settings.min_crop_area
        if self._labels and self.stored:
            replay, label = self._labels.view(row, epoch)
            return replay_view(self._read(row), replay, self.stored.recipe, size), label
        image = decode(self._read(row), min_short_side=least_short_side(size, area))
        height, width = image.pixels.shape[:2]
        crop = draw_crop(width, height, area, random_generator(self.settings.seed, epoch, place))
        return cut(image.pixels, crop, size), None

    def _read(self, row: int) -> bytes:
        return self._reader.read(self._uris[row].as_py(), int(self._offsets[row]), int(self._sizes[row]))


def _pieces(places: Iterator[Place], size: int) -> Iterator[list[Place]]:
    while piece := list(islice(places, size)):
        yield piece
