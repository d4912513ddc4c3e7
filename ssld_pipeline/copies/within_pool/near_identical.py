"""Compare the pixels of similar pool images, and gather the near-identical ones into groups.

A *file* is a number: that of distinct bytes, by falling quality. All arrays of files are int64.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.geometry.homography import in_pixels, square_to_pixels
from ssld_pipeline.copies.pixels.block_agreement import NUM_BLOCKS, Agreement, compare_pixels
from ssld_pipeline.copies.within_pool.groups import gather, missing_links, without

Pairs = npt.NDArray[np.int64]

# Below this share of comparable blocks the pictures are too flat to tell.
_MIN_BLOCKS = NUM_BLOCKS // 10
_PAIRS_AT_ONCE = 256
# Up to here, seconds of work, a process would take longer to start. Threads gain little: NumPy holds Python's lock.
_FEW_CHUNKS = 8
_MOST_PROCESSES = 8  # of 0.1 to 0.3 GB each
# Each round reaches further within a group; groups of hundreds are complete after three or four.
_MAX_ROUNDS = 8


class Frames(NamedTuple):
    """Of some files, rising: their numbers, which of them could be read, their pixels (a .npy file of uint8 [n, h, h],
    as in ``block_agreement``) and their sizes (int64 [n, 2]: width, height)."""

    files: npt.NDArray[np.int64]
    is_read: npt.NDArray[np.bool_]
    pixels: Path
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
    frames: Frames, proposed: Pairs, num_files: int, min_score: float, num_processes: int
) -> tuple[Compared, npt.NDArray[np.int64]]:
    """(the pairs whose pixels agree, the file whose group each of all files joins: itself where it is kept).

    Compared are the proposed pairs, then those that would complete a group. Independent of ``num_processes``.
    """
    # Processes start when they are first given something to do.
    count, context = min(num_processes, _MOST_PROCESSES), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_end_with_parent) as processes:
        known = proposed
        confirmed = _confirm(frames, proposed, min_score, processes)
        for _ in range(_MAX_ROUNDS):
            links = missing_links(gather(num_files, confirmed.pairs), confirmed.pairs)
            links = without(links, known, num_files)
            if not len(links):
                break
            known = np.concatenate((known, links))
            confirmed = _stack([confirmed, _confirm(frames, links, min_score, processes)])
    return confirmed, gather(num_files, confirmed.pairs)


def _end_with_parent() -> None:
    """A worker of a killed process would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _confirm(frames: Frames, pairs: Pairs, min_score: float, processes: ProcessPoolExecutor) -> Compared:
    """Those of ``pairs`` whose pixels agree; none of a file that could not be read."""
    slots = np.searchsorted(frames.files, pairs)
    readable = frames.is_read[slots].all(axis=1)
    pairs, slots = pairs[readable], slots[readable]
    # At least one chunk, if of no pairs.
    pieces = [slice(i, i + _PAIRS_AT_ONCE) for i in range(0, max(1, len(pairs)), _PAIRS_AT_ONCE)]
    chunks = [(frames.pixels, pairs[own], slots[own], frames.sizes[slots[own]], min_score) for own in pieces]
    if len(chunks) > _FEW_CHUNKS:
        try:
            return _stack(list(processes.map(_agreeing, *zip(*chunks, strict=True))))
        except BrokenProcessPool:  # one was killed, for want of memory perhaps; what took hours must not be lost for it
            pass
    return _stack(list(starmap(_agreeing, chunks)))


def _agreeing(pixels: Path, pairs: Pairs, slots: Pairs, sizes: npt.NDArray[np.int64], min_score: float) -> Compared:
    """Those of ``pairs`` whose pixels agree; ``slots`` [p, 2]: rows of ``pixels``, of ``sizes`` [p, 2, 2]."""
    cv2.setNumThreads(1)
    compared = _compare(np.load(pixels, mmap_mode="r", allow_pickle=False), pairs, slots, sizes)
    agrees = (compared.score >= np.float32(min_score)) & (compared.num_blocks >= _MIN_BLOCKS)
    return Compared._make(values[agrees] for values in compared)


def _stack(some: Sequence[Compared]) -> Compared:
    return Compared._make(np.concatenate(values) for values in zip(*some, strict=True))


def _compare(pixels: npt.NDArray[np.uint8], pairs: Pairs, slots: Pairs, sizes: npt.NDArray[np.int64]) -> Compared:
    score, coverage = (np.zeros(len(pairs), np.float32) for _ in range(2))
    num_blocks, homography = np.zeros(len(pairs), np.int32), np.zeros((len(pairs), 9), np.float32)
    for i, own in enumerate(slots):
        agreement, aligned = _compare_one(pixels[own], sizes[i])
        score[i], num_blocks[i], coverage[i] = agreement
        homography[i] = aligned.ravel()
    return Compared(pairs, score, num_blocks, coverage, homography)


def _compare_one(
    frames: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int64]
) -> tuple[Agreement, npt.NDArray[np.float64]]:
    """(agreement, homography in pixels) of two pictures, the better first, their sides squeezed to the same length."""
    (better, worse), (better_size, worse_size) = frames, sizes
    found = compare_pixels(worse, better, np.eye(3), (1, 1))
    return found.agreement, in_pixels(found.homography, square_to_pixels(worse_size), square_to_pixels(better_size))
