"""Pairs of like pictures among millions: thumbnails of like edges, found by a FAISS index.

Far from quadratic: an image is compared with the few lists of a fixed length that lie nearest to it. Found are images
that show the same in the same orientation; mirrored or turned ones are not.

Grey levels of thumbnails are alike wherever a thing lies on a ground; their edges (Laplacian) are not. Of 5,043
photographs of clothing, 185 pairs have 16x16 thumbnails correlated by .94 and hashes within 14 bits; 4 have edges of
them correlated by .85, 2 of which are the same file. That finds; edges of 32x32 confirm: of the 186 most alike pairs
3 reach .6. Of 200 photographs each halved, quartered, doubled, recompressed, blurred, darkened, brightened, or trimmed
by up to 2 % a side, one version in 1,500 fails either; of those trimmed by up to 4 %, over half.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.candidates.nearest import cluster, use_one_thread

Thumbnails = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Pairs = npt.NDArray[np.int64]

MIN_CORRELATION = 0.85
MIN_FINE_CORRELATION = 0.6

_SIDE_PX = 32
_SEED = 0
_NUM_NEIGHBOURS = 8
_NUM_PROBES = 16
# The main axes hold three quarters of the variance of coarse edges; what they find is compared whole.
_NUM_AXES = 96
_MAX_EXACT = 16_384
_MAX_FLAT_LISTS = 1024
_VECTORS_PER_LIST = 1000
_MAX_LISTS = 65_536
_TRAINING_PER_LIST = 40
_BATCH = 16_384
# Norm of edges below which they are rounding and compression; of 16x16 thumbnails, 1 photograph in 1,000 is below 170.
_MIN_NORM = 60.0
# Squared distances along the axes are at most those of whole edges, but for a byte's rounding.
_SLACK = 0.02


def near_pairs(thumbnails: Thumbnails, num_threads: int) -> Pairs:
    """int64 [p, 2]: rows a < b of pairs that are alike, each once, in rising order; independent of ``num_threads``.

    ``thumbnails``: uint8 [n, 1024], 32x32 grey levels, may be memory-mapped. Each image proposes its 8 nearest, a flat
    one none.
    """
    if len(thumbnails) < 2:
        return np.zeros((0, 2), np.int64)
    axes = main_axes(_sample(thumbnails, _MAX_EXACT))
    index = _build(thumbnails, axes, num_threads)
    found = [similar_pairs(thumbnails, pairs) for pairs in _neighbours(index, thumbnails, axes, num_threads)]
    count = np.int64(len(thumbnails))
    keys = np.unique(np.concatenate([pairs[:, 0] * count + pairs[:, 1] for pairs in found]))
    return np.stack((keys // count, keys % count), axis=1)


def main_axes(thumbnails: Thumbnails) -> Floats:
    """float32 [196, 96]: the directions along which coarse edges differ most."""
    vectors = coarse_edges(thumbnails).astype(np.float64)
    return np.ascontiguousarray(np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1][:, :_NUM_AXES], np.float32)


def index_factory(num_vectors: int) -> str:
    """The FAISS factory string for this many vectors: exact for few, IVF with a byte per axis above."""
    if num_vectors <= _MAX_EXACT:
        return "Flat"
    lists = min(2 ** round(math.log2(num_vectors / _VECTORS_PER_LIST)), _MAX_LISTS)
    return f"IVF{lists}{'_HNSW32' if lists > _MAX_FLAT_LISTS else ''},SQ8"


def _build(thumbnails: Thumbnails, axes: Floats, num_threads: int) -> Any:
    use_one_thread()  # a trained index must not depend on how sums are split
    index: Any = faiss.index_factory(_NUM_AXES, index_factory(len(thumbnails)), faiss.METRIC_L2)
    if not index.is_trained:
        vectors = coarse_edges(_sample(thumbnails, _TRAINING_PER_LIST * index.nlist)) @ axes
        centroids = cluster(vectors, index.nlist)
        index.quantizer.train(centroids)
        index.quantizer.add(centroids)
        index.train(vectors)
        index.nprobe = _NUM_PROBES
    faiss.omp_set_num_threads(num_threads)
    for _, batch in _batches(thumbnails):
        index.add(coarse_edges(batch) @ axes)
    return index


def _neighbours(index: Any, thumbnails: Thumbnails, axes: Floats, num_threads: int) -> Iterator[Pairs]:
    """Pairs [p, 2] of an image and a nearest one, batch by batch."""
    limit = 2 * (1 - MIN_CORRELATION) + _SLACK
    faiss.omp_set_num_threads(num_threads)
    for start, batch in _batches(thumbnails):
        vectors = coarse_edges(batch) @ axes
        rows = np.flatnonzero(vectors.any(axis=1))
        distances, found = index.search(vectors[rows], _NUM_NEIGHBOURS + 1)
        own = np.broadcast_to((rows + start)[:, None], found.shape)
        near = (found >= 0) & (found != own) & (distances <= limit)
        yield np.stack((np.minimum(own, found)[near], np.maximum(own, found)[near]), axis=1)
    use_one_thread()


def similar_pairs(thumbnails: Thumbnails, pairs: Pairs) -> Pairs:
    """Those of ``pairs`` [p, 2] whose edges are correlated, the coarse ones and the fine ones."""
    for of, limit in ((coarse_edges, MIN_CORRELATION), (fine_edges, MIN_FINE_CORRELATION)):
        left, right = (of(np.asarray(thumbnails[side])) for side in pairs.T)
        agrees: npt.NDArray[np.bool_] = (left * right).sum(axis=1) >= limit
        pairs = pairs[agrees]
    return pairs


def coarse_edges(thumbnails: Thumbnails) -> Floats:
    """float32 [m, 196] of norm 1: the Laplacian at 16x16; 0 for a flat image, which is then like no other."""
    half = _SIDE_PX // 2
    return _laplacian(thumbnails.reshape(-1, half, 2, half, 2).mean(axis=(2, 4), dtype=np.float32))


def fine_edges(thumbnails: Thumbnails) -> Floats:
    """float32 [m, 900] of norm 1: the Laplacian at 32x32; 0 for a flat image."""
    return _laplacian(thumbnails.reshape(-1, _SIDE_PX, _SIDE_PX).astype(np.float32))


def _laplacian(grey: Floats) -> Floats:
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    found = (4 * grey[:, 1:-1, 1:-1] - around).reshape(len(grey), (grey.shape[1] - 2) ** 2)
    norm = np.linalg.norm(found, axis=1, keepdims=True)
    return np.where(norm >= _MIN_NORM, found / np.maximum(norm, 1), np.float32(0))


def _sample(thumbnails: Thumbnails, size: int) -> Thumbnails:
    """At most ``size`` rows, the same every time, in their order."""
    rows = np.random.default_rng(_SEED).choice(len(thumbnails), min(size, len(thumbnails)), replace=False)
    return np.asarray(thumbnails[np.sort(rows)])


def _batches(thumbnails: Thumbnails) -> Iterator[tuple[int, Thumbnails]]:
    for start in range(0, len(thumbnails), _BATCH):
        yield start, np.asarray(thumbnails[start : start + _BATCH])
