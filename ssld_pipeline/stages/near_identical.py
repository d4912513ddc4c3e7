"""Pixels decide which like images of the pool are near-identical, and stars gather them into groups.

A *file* is a number: that of distinct bytes, by falling quality. All arrays of files are int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssld_pipeline.kernels.block_agreement import NUM_BLOCKS, Agreement, compare_pixels
from ssld_pipeline.kernels.stars import gather, missing_links, without
from ssld_pipeline.stages.index_protected import on_threads

Pairs = npt.NDArray[np.int64]

# Below this share of comparable blocks the pictures are too flat to tell.
_MIN_BLOCKS = NUM_BLOCKS // 10
_PAIRS_AT_ONCE = 256
# Each round reaches further within a group; groups of hundreds are complete after three or four.
_MAX_ROUNDS = 8


class Frames(NamedTuple):
    """Of some files, rising: their numbers, which of them could be read, their pixels (uint8 [n, h, h], as in
    ``block_agreement``) and their sizes (int64 [n, 2]: width, height)."""

    files: npt.NDArray[np.int64]
    is_read: npt.NDArray[np.bool_]
    pixels: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.int64]


class Compared(NamedTuple):
    """Pairs [p, 2] of files, the better first, and what their pixels say, as in the table ``repeats``.

    ``homography``: float32 [p, 9] from the pixels of the worse to those of the better.
    """

    pairs: Pairs
    score: npt.NDArray[np.float32]
    num_blocks: npt.NDArray[np.int32]
    coverage: npt.NDArray[np.float32]
    homography: npt.NDArray[np.float32]


def near_identical(
    frames: Frames, proposed: Pairs, num_files: int, min_score: float, num_threads: int
) -> tuple[Compared, npt.NDArray[np.int64]]:
    """(the pairs whose pixels agree, the file whose group each of all files joins: itself where it is kept).

    Compared are the proposed pairs, then those that would complete a group. Independent of ``num_threads``.
    """
    known = proposed
    confirmed = _confirm(frames, proposed, min_score, num_threads)
    for _ in range(_MAX_ROUNDS):
        links = missing_links(gather(num_files, confirmed.pairs), confirmed.pairs)
        links = without(links, known, num_files)
        if not len(links):
            break
        known = np.concatenate((known, links))
        confirmed = _stack([confirmed, _confirm(frames, links, min_score, num_threads)])
    return confirmed, gather(num_files, confirmed.pairs)


def _confirm(frames: Frames, pairs: Pairs, min_score: float, num_threads: int) -> Compared:
    """Those of ``pairs`` whose pixels agree; none of a file that could not be read."""
    slots = np.searchsorted(frames.files, pairs)
    readable = frames.is_read[slots].all(axis=1)
    pairs, slots = pairs[readable], slots[readable]
    starts = range(0, len(pairs), _PAIRS_AT_ONCE)
    chunks = ((pairs[i : i + _PAIRS_AT_ONCE], slots[i : i + _PAIRS_AT_ONCE]) for i in starts)
    found = on_threads(lambda chunk: _agreeing(_compare(frames, *chunk), min_score), chunks, num_threads)
    return _stack([_compare(frames, pairs[:0], slots[:0]), *found])


def _agreeing(compared: Compared, min_score: float) -> Compared:
    agrees = (compared.score >= np.float32(min_score)) & (compared.num_blocks >= _MIN_BLOCKS)
    return Compared._make(values[agrees] for values in compared)


def _stack(some: Sequence[Compared]) -> Compared:
    return Compared._make(np.concatenate(values) for values in zip(*some, strict=True))


def _compare(frames: Frames, pairs: Pairs, slots: Pairs) -> Compared:
    score, coverage = (np.zeros(len(pairs), np.float32) for _ in range(2))
    num_blocks, homography = np.zeros(len(pairs), np.int32), np.zeros((len(pairs), 9), np.float32)
    for i, (better, worse) in enumerate(slots):
        agreement, aligned = _compare_one(frames, better, worse)
        score[i], num_blocks[i], coverage[i] = agreement
        homography[i] = aligned.ravel()
    return Compared(pairs, score, num_blocks, coverage, homography)


def _compare_one(frames: Frames, better: int, worse: int) -> tuple[Agreement, npt.NDArray[np.float64]]:
    """(agreement, homography in pixels) of two pictures whose sides are squeezed to the same length."""
    agreement, unit = compare_pixels(frames.pixels[worse], frames.pixels[better], np.eye(3), (1, 1))
    pixels = _from_square(frames.sizes[better]) @ unit @ np.linalg.inv(_from_square(frames.sizes[worse]))
    return agreement, pixels / pixels[2, 2]


def _from_square(size: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """From the unit square to pixels, centres at whole numbers."""
    width, height = size
    return np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]])
