"""Catalog rows in, a network's probabilities for views of their images out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import BadImage
from ssld_pipeline.inputs.read import Address, ImageReader, addresses
from ssld_pipeline.kernels.ahead import ahead
from ssld_pipeline.training.recipe import Recipe
from ssld_pipeline.training.views import Replay, SourceImage

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from ssld_pipeline.models.predict import Predictor

_VIEWS_PER_BLOCK = 16
Item = TypeVar("Item")
T = TypeVar("T")


class MapAhead(Protocol):
    """How work is done ahead of its consumer: results in the order of the items, a bounded number of them waiting."""

    def __call__(self, function: Callable[[Item], T], items: Iterable[Item], /) -> Iterator[T]: ...


class Wanted(NamedTuple):
    """The views (their numbers) that are wanted of the image in row ``number``."""

    number: int
    image_id: str
    address: Address
    views: Sequence[int]


@dataclass(frozen=True)
class Block:
    """``pixels`` uint8 [N,S,S,3]; of each view its row number, its own number and its parameters; and what failed."""

    numbers: list[int]
    views: list[int]
    replays: list[Replay]
    pixels: NDArray[np.uint8]
    rejects: list[Reject]


@dataclass(frozen=True)
class Predictions:
    """Some views: their row numbers, their own numbers, their parameters, and ``probs [N, classes]``."""

    numbers: list[int]
    views: list[int]
    replays: list[Replay]
    probs: NDArray[np.float64]


def predict_rows(
    rows: pa.Table,
    predictor: Predictor,
    recipe: Recipe,
    map_ahead: MapAhead,
    rejects: list[Reject],
    views: Callable[[int], Sequence[int]] = lambda number: (0,),
) -> Iterator[Predictions]:
    """Probabilities of the ``views`` of each row (columns image_id, uri, offset, size_bytes), in order, by batches.

    Images that cannot be used are appended to ``rejects``. ``map_ahead`` reads, decodes and cuts blocks of views while
    the network works, so that a bounded number of them is in memory.
    """
    predictor.tune(recipe.image_size)
    cut = partial(cut_views, reader=ImageReader(), recipe=recipe)
    blocks = map_ahead(cut, _pieces(rows, views))
    batches = _batches(_without_rejects(blocks, rejects), predictor.batch_size)
    for block, probs in predictor.stream((block, block.pixels) for block in batches):
        yield Predictions(block.numbers, block.views, block.replays, probs)


def on_threads(num_threads: int) -> MapAhead:
    """Threads of this process."""

    def map_ahead(function: Callable[[Item], T], items: Iterable[Item], /) -> Iterator[T]:
        return ahead(function, items, num_threads)

    return map_ahead


def cut_views(piece: Sequence[Wanted], reader: ImageReader, recipe: Recipe) -> Block:
    """The views of some images; runs wherever there is a core to spare."""
    found, rejects = [], []
    for wanted in piece:
        try:
            source = SourceImage(reader.read(*wanted.address))
            # An image is there with all of its views or not at all.
            found += [(wanted.number, view, *source.view(wanted.image_id, view, recipe)) for view in wanted.views]
        except BadImage as bad:
            rejects.append(Reject(wanted.image_id, bad.reason, bad.detail))
    size = recipe.image_size
    pixels = np.stack([view for _, _, view, _ in found]) if found else np.zeros((0, size, size, 3), np.uint8)
    return Block([n for n, _, _, _ in found], [v for _, v, _, _ in found], [r for *_, r in found], pixels, rejects)


def _pieces(rows: pa.Table, views: Callable[[int], Sequence[int]]) -> Iterator[list[Wanted]]:
    piece: list[Wanted] = []
    image_ids = rows["image_id"].to_pylist()
    for number, (image_id, address) in enumerate(zip(image_ids, addresses(rows), strict=True)):
        if own := views(number):
            piece.append(Wanted(number, image_id, address, own))
        if sum(len(wanted.views) for wanted in piece) >= _VIEWS_PER_BLOCK:
            yield piece
            piece = []
    if piece:
        yield piece


def _without_rejects(blocks: Iterable[Block], rejects: list[Reject]) -> Iterator[Block]:
    for block in blocks:
        rejects += block.rejects
        yield block


def _batches(blocks: Iterable[Block], batch_size: int) -> Iterator[Block]:
    """The same views in blocks of ``batch_size``, the last one smaller."""
    waiting, count = [], 0
    for block in blocks:
        waiting.append(block)
        count += len(block.numbers)
        while count >= batch_size:
            whole = _joined(waiting)
            yield _slice(whole, 0, batch_size)
            count -= batch_size
            waiting = [_slice(whole, batch_size, batch_size + count)] if count else []
    if count:
        yield _joined(waiting)


def _joined(blocks: Sequence[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    return Block(
        [n for block in blocks for n in block.numbers],
        [v for block in blocks for v in block.views],
        [r for block in blocks for r in block.replays],
        np.concatenate([block.pixels for block in blocks]),
        [],
    )


def _slice(block: Block, start: int, end: int) -> Block:
    own = slice(start, end)
    return Block(block.numbers[own], block.views[own], block.replays[own], block.pixels[own], [])
