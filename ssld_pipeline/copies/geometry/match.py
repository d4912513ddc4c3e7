"""One-to-one matches of the descriptors of two images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Descriptors = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]


def mutual_nearest(distances: npt.NDArray[np.float32], max_distance: float) -> tuple[Ids, Ids]:
    """(rows of left, rows of right) of mutual nearest neighbours no farther apart than ``max_distance`` (Euclidean).

    ``distances``: squared, [len(left), len(right)].
    """
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
    distances = a @ (-2 * b).T
    distances += np.einsum("ij,ij->i", a, a)[:, None]
    distances += np.einsum("ij,ij->i", b, b)
    return distances
