"""Catalog rows in, a network's probabilities for the evaluation views of their images out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import BadImage

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from ssld_pipeline.kernels.images import Image
    from ssld_pipeline.models.predict import Predictor

Box = tuple[float, float, float, float]


class View(NamedTuple):
    """``pixels``: uint8 SxSx3. ``box``: left, top, width, height in the upright source, pixels."""

    pixels: NDArray[np.uint8]
    box: Box


@dataclass(frozen=True)
class Predictions:
    """Some images: their row numbers ``[N]``, ``probs [N, classes]`` and ``boxes [N, 4]`` (as in `View`)."""

    numbers: list[int]
    probs: NDArray[np.float64]
    boxes: NDArray[np.float32]


def predict_rows(
    rows: pa.Table,
    predictor: Predictor,
    image_size: int,
    crop_pct: float,
    num_threads: int,
    rejects: list[Reject],
) -> Iterator[Predictions]:
    """Probabilities of ``rows`` (columns image_id, uri, offset, size_bytes) in their order, batch by batch.

    Images that cannot be used are appended to ``rejects``. Threads read and decode while another runs the network; some
    five batches of pixels are in memory at once.
    """
    from ssld_pipeline.inputs.ahead import ahead
    from ssld_pipeline.inputs.read import decode_many

    def predict(views: list[tuple[int, View]]) -> Predictions:
        pixels = np.stack([view.pixels for _, view in views])
        boxes = np.array([view.box for _, view in views], dtype=np.float32)
        return Predictions([number for number, _ in views], predictor.probs(pixels), boxes)

    short_side = round(image_size / crop_pct)
    decoded = decode_many(rows, num_threads, short_side, evaluation_of(image_size, crop_pct))
    return ahead(predict, _batches(_usable(rows, decoded, rejects), predictor.batch_size), num_threads=1)


def evaluation_of(image_size: int, crop_pct: float) -> Callable[[Image], View]:
    """The function that cuts the evaluation view out of an image."""
    from ssld_pipeline.kernels.images import center_crop_box, evaluation_view

    def view(image: Image) -> View:
        box = center_crop_box(image.width, image.height, image_size, crop_pct)
        return View(evaluation_view(image.pixels, image_size, crop_pct), box)

    return view


def _usable(
    rows: pa.Table, decoded: Iterable[tuple[int, View | BadImage]], rejects: list[Reject]
) -> Iterator[tuple[int, View]]:
    for number, view in decoded:
        if isinstance(view, BadImage):
            rejects.append(Reject(rows["image_id"][number].as_py(), view.reason, view.detail))
        else:
            yield number, view


def _batches(views: Iterator[tuple[int, View]], batch_size: int) -> Iterator[list[tuple[int, View]]]:
    while batch := list(islice(views, batch_size)):
        yield batch
