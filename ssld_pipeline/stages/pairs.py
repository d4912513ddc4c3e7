"""The protected images that one pool image may copy: proposed cheaply, then compared pixel by pixel.

Cheapest first: SIFT votes propose protected images and geometry checks them; whole-picture likeness proposes more. Only
the comparison of pixels supports a pair, never counts of matches alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssld_pipeline.stages.dedupe import DedupeConfig
    from ssld_pipeline.stages.protected_index import ProtectedIndex

# From this score on a pair is beyond doubt, and nothing more is looked for.
_SETTLED_SCORE = 0.6


@dataclass(frozen=True)
class Pair:
    """A pool image beside protected image number ``protected``; ``homography``: in units of the longer sides.

    ``score``: how well the pixels agree, in [0,1], over ``num_blocks`` comparable blocks of 64. ``coverage``: share of
    the protected image that the pool image shows.
    """

    protected: int
    method: str
    num_matches: int
    num_inliers: int
    score: float
    num_blocks: int
    coverage: float
    homography: npt.NDArray[np.float64]


def find_pairs(pixels: npt.NDArray[np.uint8], index: ProtectedIndex, config: DedupeConfig) -> list[Pair]:
    """The pairs whose pixels were compared, by falling score; each protected image once."""
    from ssld_pipeline.kernels.sift import resize_grey

    grey = resize_grey(pixels, config.image_side)
    pairs = _pairs_by_keypoints(grey, index, config)
    if not any(p.score >= _SETTLED_SCORE for p in pairs):
        pairs += _pairs_by_looks(grey, index, config)
    best: dict[int, Pair] = {}
    for pair in sorted(pairs, key=lambda p: (-p.score, p.protected, p.method)):
        best.setdefault(pair.protected, pair)
    return list(best.values())


def _pairs_by_keypoints(grey: npt.NDArray[np.uint8], index: ProtectedIndex, config: DedupeConfig) -> list[Pair]:
    from ssld_pipeline.kernels.match import match_one_to_one, vote
    from ssld_pipeline.kernels.sift import detect_keypoints
    from ssld_pipeline.kernels.verify_geometry import estimate_transform

    pool = detect_keypoints(grey, config.pool_keypoints)
    hits = index.images_hit(pool.descriptors, config.num_neighbours)
    pairs = []
    for image in vote(hits, config.num_candidates, config.min_votes)[0]:
        protected = index.keypoints(image)
        left, right = match_one_to_one(pool.descriptors, protected.descriptors, config.max_match_distance)
        transform = estimate_transform(pool[left], protected[right])
        if transform is not None:
            counts = len(left), transform.num_inliers
            pairs.append(_compare(grey, int(image), transform.homography, "sift", counts, index))
    return pairs


def _pairs_by_looks(grey: npt.NDArray[np.uint8], index: ProtectedIndex, config: DedupeConfig) -> list[Pair]:
    from ssld_pipeline.kernels.perceptual import dihedral_homography, dihedral_looks, propose

    proposed = propose(
        dihedral_looks(grey),
        index.looks,
        config.max_hash_distance,
        config.min_thumbnail_correlation,
        config.num_candidates,
    )
    pool_size = (grey.shape[1], grey.shape[0])
    pairs = []
    for image, form in proposed:
        homography = dihedral_homography(form, pool_size, size_of(index, image))
        pairs.append(_compare(grey, image, homography, "perceptual", (0, 0), index))
    return pairs


def _compare(
    grey: npt.NDArray[np.uint8],
    image: int,
    homography: npt.NDArray[np.float64],
    method: str,
    counts: tuple[int, int],
    index: ProtectedIndex,
) -> Pair:
    from ssld_pipeline.kernels.block_agreement import compare_pixels

    agreement, aligned = compare_pixels(grey, index.frames[image], homography, size_of(index, image))
    return Pair(image, method, *counts, agreement.score, agreement.num_blocks, agreement.coverage, aligned)


def size_of(index: ProtectedIndex, image: int) -> tuple[int, int]:
    width, height = index.sizes[image]
    return int(width), int(height)
