"""How copies are searched: settings of the search, and of the index it searches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IndexSettings:
    """``image_side``: longer side at which key points are searched, pixels. ``protected_keypoints``: most per image.
    ``stop_recurrence``: a key point that recurs in so many other images of the index does not vote."""

    image_side: int
    protected_keypoints: int
    stop_recurrence: int


@dataclass(frozen=True)
class SearchSettings:
    """``image_side``: longer side at which a pool image is searched, pixels; ``pool_keypoints``: most per pool image.

    ``num_neighbours``: nearest protected key points that one pool key point votes for. ``min_votes``: of a candidate.
    ``num_candidates``: most protected images compared, by votes, and again by whole-picture likeness.
    ``max_match_distance``: Euclidean, of two matched descriptors, whose norm is about 512. ``max_hash_distance``: bits
    of 64. ``min_thumbnail_correlation``: in [-1,1].
    """

    image_side: int
    pool_keypoints: int
    num_neighbours: int
    min_votes: int
    num_candidates: int
    max_match_distance: float
    max_hash_distance: int
    min_thumbnail_correlation: float
