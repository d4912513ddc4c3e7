"""Nearest descriptors: a FAISS index over all protected key points, votes per image, one-to-one matches of a pair."""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Descriptors = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]

_SEED = 0
# Up to here brute force costs no more than quantisation, and is exact.
_MAX_FLAT = 16_384
_TRAINING_PER_LIST = 64
_ADDED_AT_ONCE = 65_536


def use_one_thread() -> None:
    """Make FAISS single-threaded in the calling thread: OpenMP keeps this setting per thread."""
    faiss.omp_set_num_threads(1)


def index_factory(num_vectors: int) -> str:
    """The FAISS factory string for this many vectors: exact for small sets, IVF + 4-bit PQ (32 bytes each) above."""
    if num_vectors <= _MAX_FLAT:
        return "Flat"
    lists = 2 ** round(math.log2(2 * math.sqrt(num_vectors)))
    return f"IVF{min(lists, num_vectors // 40)},PQ64x4fs"


def build_index(descriptors: Descriptors, num_threads: int) -> faiss.Index:
    """The index of ``descriptors`` (uint8 [n, 128], may be memory-mapped); vector id = row.

    Trained on a seeded sample by one thread, and filled by ``num_threads``: the index does not depend on their number.
    """
    use_one_thread()
    index: Any = faiss.index_factory(128, index_factory(len(descriptors)), faiss.METRIC_L2)
    if not index.is_trained:
        index.cp.seed = _SEED
        size = min(len(descriptors), _TRAINING_PER_LIST * index.nlist)
        rows = np.sort(np.random.default_rng(_SEED).choice(len(descriptors), size, replace=False))
        index.train(descriptors[rows].astype(np.float32))
    faiss.omp_set_num_threads(num_threads)
    for start in range(0, len(descriptors), _ADDED_AT_ONCE):
        index.add(descriptors[start : start + _ADDED_AT_ONCE].astype(np.float32))
    use_one_thread()
    filled: faiss.Index = index
    return filled


def set_num_probes(index: faiss.Index, num_probes: int) -> None:
    """How many of the lists a query visits; without effect on a flat index."""
    if hasattr(index, "nprobe"):
        index.nprobe = num_probes


def search(index: faiss.Index, descriptors: Descriptors, num_neighbours: int) -> tuple[npt.NDArray[np.float32], Ids]:
    """(squared distances, vector ids), both [n, num_neighbours], nearest first; id -1 where there is none."""
    if not len(descriptors) or not index.ntotal:
        shape = (len(descriptors), num_neighbours)
        return np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64)
    distances, ids = index.search(descriptors.astype(np.float32), num_neighbours)
    return distances, ids


def vote(images_hit: Ids, num_candidates: int, min_votes: int) -> tuple[Ids, Ids]:
    """(images, votes): the images hit by the most key points, by falling votes, then by image number.

    ``images_hit`` [n, k] holds the image of each neighbour of each key point, -1 for none; a key point votes at most
    once for an image.
    """
    ordered = np.sort(images_hit, axis=1)
    first = np.ones_like(ordered, dtype=np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    images, votes = np.unique(ordered[first & (ordered >= 0)], return_counts=True)
    best = np.lexsort((images, -votes))[:num_candidates]
    best = best[votes[best] >= min_votes]
    return images[best], votes[best].astype(np.int64)


def match_one_to_one(left: Descriptors, right: Descriptors, max_distance: float) -> tuple[Ids, Ids]:
    """(rows of left, rows of right) of mutual nearest neighbours no farther apart than ``max_distance`` (Euclidean)."""
    return mutual_nearest(squared_distances(left, right), max_distance)


def mutual_nearest(distances: npt.NDArray[np.float32], max_distance: float) -> tuple[Ids, Ids]:
    """The same, from squared distances [len(left), len(right)]."""
    if not distances.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    nearest = distances.argmin(axis=1)
    rows = np.arange(len(distances))
    mutual = distances.argmin(axis=0)[nearest] == rows
    kept = rows[mutual & (distances[rows, nearest] <= max_distance**2)]
    return kept, nearest[kept]


def squared_distances(left: Descriptors, right: Descriptors) -> npt.NDArray[np.float32]:
    """float32 [len(left), len(right)]; exact, since every intermediate is a whole number below 2**24."""
    a, b = left.astype(np.float32), right.astype(np.float32)
    return np.asarray((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T), np.float32)
