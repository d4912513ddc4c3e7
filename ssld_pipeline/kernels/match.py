"""What nearest descriptors say of images: votes for each protected image, and one-to-one matches of a pair."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Descriptors = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]


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
