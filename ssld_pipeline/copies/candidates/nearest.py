"""Nearest descriptors: a FAISS index over all protected key points, exact for a few, IVF and 4-bit PQ for many.

On SIFT-like descriptors (benchmarks/dedupe_index.py), 200 queries at a time on one thread of a 2-core AMD EPYC:

* The coarse quantizer is flat up to 1,024 lists. Above, HNSW finds the lists 5 to 10 times as fast (8,192 lists: 3.7 ms
  against 21, 32,768: 11 against 120) and misses 1 to 3 in 100 of the four nearest.
* k-means runs on two levels, the cells of a coarse k-means being clustered one by one: 64 times less work than at once
  (2,048 lists: .9 s against 6.4), for .006 less of the four nearest descriptors found.
* 19.8 million vectors, 4 probes: 8.8 ms, .36 of the four nearest found, and the originals of as many copies proposed as
  among 193,000 vectors, since votes add up. 16 probes take twice as long and propose no more.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Descriptors = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_SEED = 0
# Up to here brute force costs no more than quantisation, and is exact.
_MAX_FLAT = 16_384
_MAX_FLAT_LISTS = 1024
# Four lists of this length take as long to scan as to find among 8,192: 3 to 4 ms per 200 queries.
_VECTORS_PER_LIST = 1200
_MIN_LISTS, _MAX_LISTS = 64, 65_536
_TRAINING_PER_LIST = 40
_TRAINING_ROUNDS = 10
_TOP_CELLS = 64
_ADDED_AT_ONCE = 65_536


def use_one_thread() -> None:
    """Make FAISS single-threaded in the calling thread: OpenMP keeps this setting per thread."""
    faiss.omp_set_num_threads(1)


def index_factory(num_vectors: int) -> str:
    """The FAISS factory string for this many vectors: exact for small sets, IVF + 4-bit PQ (32 bytes each) above."""
    if num_vectors <= _MAX_FLAT:
        return "Flat"
    lists = min(max(2 ** round(math.log2(num_vectors / _VECTORS_PER_LIST)), _MIN_LISTS), _MAX_LISTS)
    return f"IVF{lists}{'_HNSW32' if lists > _MAX_FLAT_LISTS else ''},PQ64x4fs"


def build_index(descriptors: Descriptors, num_threads: int) -> faiss.Index:
    """The index of ``descriptors`` (uint8 [n, 128], may be memory-mapped); vector id = row.

    Trained on a seeded sample by one thread, and filled by ``num_threads``: the index does not depend on their number.
    It takes 40 bytes of memory per vector until it is written.
    """
    return fill(trained_index(descriptors), descriptors, num_threads)


def trained_index(descriptors: Descriptors) -> faiss.Index:
    """An empty index, trained to hold ``descriptors``."""
    use_one_thread()
    index: Any = faiss.index_factory(128, index_factory(len(descriptors)), faiss.METRIC_L2)
    if not index.is_trained:
        train(index, sample(descriptors, _TRAINING_PER_LIST * index.nlist))
    trained: faiss.Index = index
    return trained


def fill(index: faiss.Index, descriptors: Descriptors, num_threads: int) -> faiss.Index:
    """``index``, with ``descriptors`` added a few at a time."""
    faiss.omp_set_num_threads(num_threads)
    for start in range(0, len(descriptors), _ADDED_AT_ONCE):
        index.add(descriptors[start : start + _ADDED_AT_ONCE].astype(np.float32))
    use_one_thread()
    return index


def sample(descriptors: Descriptors, size: int) -> Floats:
    """float32 [at most ``size``, 128]: the same rows every time, in their order."""
    rows = np.random.default_rng(_SEED).choice(len(descriptors), min(size, len(descriptors)), replace=False)
    return descriptors[np.sort(rows)].astype(np.float32)


def train(index: Any, vectors: Floats) -> None:
    """Sets the lists' centroids and the product quantizer of an empty IVF index; one thread."""
    centroids = cluster(vectors, index.nlist)
    index.quantizer.train(centroids)
    index.quantizer.add(centroids)
    index.cp.seed = _SEED
    index.train(vectors)  # FAISS keeps a coarse quantizer that is full


def cluster(vectors: Floats, num_clusters: int) -> Floats:
    """float32 [num_clusters, d]: centroids, as many in each cell of a coarse k-means as it has of the vectors."""
    every = max(1, len(vectors) // (256 * _TOP_CELLS))
    top = _kmeans(np.ascontiguousarray(vectors[::every]), min(_TOP_CELLS, num_clusters))
    cells = top.index.search(vectors, 1)[1][:, 0]
    ends = np.rint(np.cumsum(np.bincount(cells)) * (num_clusters / len(vectors))).astype(np.int64)
    shares = np.diff(ends, prepend=0).tolist()
    return np.concatenate([_kmeans(vectors[cells == i], n).centroids for i, n in enumerate(shares) if n])


def _kmeans(vectors: Floats, num_clusters: int) -> Any:
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(vectors)}
    kmeans = faiss.Kmeans(vectors.shape[1], num_clusters, niter=_TRAINING_ROUNDS, seed=_SEED, **limits)
    kmeans.train(vectors)
    return kmeans


def set_num_probes(index: faiss.Index, num_probes: int) -> None:
    """How many of the lists a query visits; without effect on a flat index."""
    if hasattr(index, "nprobe"):
        index.nprobe = num_probes


def search(index: faiss.Index | GpuIndex, descriptors: Descriptors, num_neighbours: int) -> tuple[Floats, Ids]:
    """(squared distances, vector ids), both [n, num_neighbours], nearest first; id -1 where there is none."""
    if not len(descriptors) or not index.ntotal:
        shape = (len(descriptors), num_neighbours)
        return np.full(shape, np.inf, np.float32), np.full(shape, -1, np.int64)
    distances, ids = index.search(descriptors.astype(np.float32), num_neighbours)
    return distances, ids


class GpuIndex:
    """An index on a GPU that threads may share: FAISS's GPU resources serve one search at a time."""

    def __init__(self, index: Any, resources: Any) -> None:
        self._index, self._resources, self._lock = index, resources, threading.Lock()
        self.ntotal: int = index.ntotal

    def search(self, vectors: Floats, num_neighbours: int) -> tuple[Floats, Ids]:
        with self._lock:
            distances, ids = self._index.search(vectors, num_neighbours)
        return distances, ids


def to_gpu(index: Any, descriptors: Descriptors) -> GpuIndex:
    """The same lists and probes on the first GPU, with whole descriptors for codes: finds no fewer neighbours.

    A GPU knows neither FastScan nor PQ without residuals; it holds 128 bytes per vector and their ids, about 140 bytes
    per row of ``descriptors``, which must be those of the index.
    """
    resources, options = faiss.StandardGpuResources(), faiss.GpuClonerOptions()
    options.use_cuvs = False  # cuVS knows no scalar quantizer
    options.reserveVecs = len(descriptors)
    if not hasattr(index, "nlist"):
        return GpuIndex(faiss.index_cpu_to_gpu(resources, 0, index, options), resources)
    copy = fill(faiss.index_cpu_to_gpu(resources, 0, with_whole_descriptors(index), options), descriptors, 1)
    set_num_probes(copy, index.nprobe)
    return GpuIndex(copy, resources)


def with_whole_descriptors(index: Any) -> faiss.Index:
    """An empty index of the same lists that keeps the bytes of what is added to it, found by a flat quantizer."""
    centroids = index.quantizer.reconstruct_n(0, index.nlist)
    flat = faiss.IndexFlatL2(128)
    flat.add(centroids)
    kind = faiss.ScalarQuantizer.QT_8bit_direct
    whole = faiss.IndexIVFScalarQuantizer(flat, 128, index.nlist, kind, faiss.METRIC_L2, False)
    whole.train(centroids)  # has nothing left to learn
    whole.nprobe = index.nprobe
    return whole
