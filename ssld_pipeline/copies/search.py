"""The images of one input that one pool image may copy: proposed cheaply, then compared pixel by pixel.

Cheapest first: SIFT votes propose protected images and geometry checks them; whole-picture likeness proposes more;
last, the pictures of a grid or a page are searched one by one. Only the comparison of pixels supports a pair, never
counts of matches alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ssld_pipeline.copies.evidence import Evidence

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssld_pipeline.copies.features.sift import KeyPoints
    from ssld_pipeline.copies.index.protected_index import ProtectedIndex
    from ssld_pipeline.copies.pixels.block_agreement import Comparison
    from ssld_pipeline.copies.pool_image import Look, PoolImage
    from ssld_pipeline.copies.settings import SearchSettings

    Homography = npt.NDArray[np.float64]

# From this score on, with this many inliers and twice what dedupe asks to be shown and to have edges, as its settings
# stand, a pair is beyond doubt and nothing more is looked for.
_SETTLED_SCORE = 0.6
_SETTLED_INLIERS = 12
_SETTLED_BLOCKS = 64
_SETTLED_COVERAGE = 0.3
# Then others that have fewer votes than this share of its votes are no second original, only what chance gives: of 148
# copies none had a further pair among those with no more votes than chance gives, one among the others.
_ALSO = 0.25
# Below this score nothing speaks for a pair: it is not kept as evidence, or ten in a hundred images would leave some.
_DOUBTFUL_SCORE = 0.2
# So many votes more than chance gives are worth enlarging an image for; one more is enough where it costs less.
_ENLARGED_VOTES = 2
_DOUBTFUL_INLIERS = 10
# With fewer, thumbnails are compared, too, which costs time for every protected image.
_FEW_KEYPOINTS = 60

# Of the protected image, in one part of a grid or page. Less is what pages have in common: a column, a button.
_PANEL_SHOWS = 0.5
# Another photograph of the same place, not a copy: the key points lie this far off where one transform puts them
# (median, of the longer side), are this unlike, and the picture's parts lie so many pixels off where any smooth warp
# puts them. Of 37 images that were removed for no copy 14 are told so, of 14,000 copies three. From the last score on a
# pair agrees too well for it, as a blurred one does wherever it is compared through its blur.
_LOOSE_ERROR = 0.5 / 400
_LOOSE_DISTANCE = 140.0
_MOST_UNSTEADY_PX = 2.4
_ONE_SHOT_SCORE = 0.8
# Less of both: boards of one laminate that agree corner on corner. A crop lies on the protected image with all it
# shows: of 189 copies that showed less than half of it, each with .91 or more of itself.
_CORNER_OF_POOL, _CORNER_OF_PROTECTED = 0.5, 0.3


def find_evidence(pool_image: PoolImage, index: ProtectedIndex) -> list[Evidence]:
    """The pairs whose pixels agree at least a little, by falling score; each protected image once."""
    import numpy as np

    pairs = _pairs_of(pool_image, index)
    if not _is_settled(pairs):
        for panel, placed in pool_image.panels:
            found = _pairs_of(panel, index)
            from_whole = np.linalg.inv(placed)
            shown = [pair for pair in found if pair.coverage >= _PANEL_SHOWS]
            pairs += [replace(pair, homography=pair.homography @ from_whole) for pair in shown]
            if _is_settled(shown):
                break
    best: dict[int, Evidence] = {}
    for pair in pairs:
        other = best.get(pair.protected)
        best[pair.protected] = pair if other is None else _together(other, pair)
    kept = (pair for pair in best.values() if pair.score >= _DOUBTFUL_SCORE)
    return sorted(kept, key=lambda p: (-p.score, p.protected))


def _pairs_of(pool_image: PoolImage, index: ProtectedIndex) -> list[Evidence]:
    """What one picture gives; a protected image may stand in it twice."""
    (grey, keypoints), settings = pool_image.first_look, pool_image.settings
    pairs = _pairs_by_keypoints(pool_image, index, settings)
    if not _is_settled(pairs):
        pairs += _pairs_by_likeness(grey, index, settings, len(keypoints) < _FEW_KEYPOINTS)
    return pairs


def _together(first: Evidence, second: Evidence) -> Evidence:
    """One pair of two looks at the same protected image: the key points of the one, the place that fits better, and the
    better explanation. Alike as a whole in either, it is so in both: a few key points are no reason against it."""
    best = max(first, second, key=lambda p: p.num_inliers)
    other, place = sorted((first, second), key=lambda p: p.score)
    # Another photograph of the same place is alike as a whole, too.
    if other.is_other and place.method == "perceptual" and place.score < _ONE_SHOT_SCORE:
        place = other
    method = "perceptual" if "perceptual" in (first.method, second.method) else best.method
    explained = max(first.explained, second.explained)
    return replace(
        place, method=method, num_matches=best.num_matches, num_inliers=best.num_inliers, explained=explained
    )


def _is_settled(pairs: list[Evidence]) -> bool:
    """Is one of them beyond doubt?"""
    return any(
        p.score >= _SETTLED_SCORE
        and p.num_inliers >= _SETTLED_INLIERS
        and p.num_blocks >= _SETTLED_BLOCKS
        and p.coverage >= _SETTLED_COVERAGE
        for p in pairs
    )


def _pairs_by_keypoints(pool_image: PoolImage, index: ProtectedIndex, settings: SearchSettings) -> list[Evidence]:
    images, votes = propose(pool_image.first_look.keypoints, index, settings)
    pairs: list[Evidence] = []
    least = 0.0
    for image, num_votes in zip(images.tolist(), votes.tolist(), strict=True):
        if num_votes < least:
            break
        if pair := _verify(pool_image.first_look, image, index, settings):
            pairs.append(pair)
            least = least or (_ALSO * num_votes if _is_settled([pair]) else 0)
    if least:
        return pairs
    doubtful = {p.protected for p in pairs if p.score >= _DOUBTFUL_SCORE or p.num_inliers >= _DOUBTFUL_INLIERS}
    least = _ENLARGED_VOTES if pool_image.is_small else 1
    doubtful |= set(images[votes >= noise_level(votes, settings) + least].tolist())
    return pairs + [
        pair for image in sorted(doubtful) if (pair := _verify(pool_image.second_look, image, index, settings))
    ]


def noise_level(votes: npt.NDArray[np.int64], settings: SearchSettings) -> int:
    """The votes that chance gives: as many as the last candidate's, which grow with the number of protected images."""
    return int(votes[-1]) if len(votes) == settings.num_candidates else settings.min_votes


def propose(
    pool: KeyPoints, index: ProtectedIndex, settings: SearchSettings
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(images, votes): the protected images whose key points, near those of the pool image, agree best with one
    transform, by falling number of them."""
    import numpy as np

    from ssld_pipeline.copies.geometry.hough_votes import rank_by_agreement

    rows = index.neighbours(pool.descriptors, settings.num_neighbours)
    sources, columns = np.nonzero(rows >= 0)
    hit = rows[sources, columns]
    left, right = pool.places[sources], index.places_of(hit)
    ranked, votes = rank_by_agreement(left, right, sources, index.image_of(hit), settings.min_votes)
    return ranked[: settings.num_candidates], votes[: settings.num_candidates]


def _verify(look: Look, image: int, index: ProtectedIndex, settings: SearchSettings) -> Evidence | None:
    from ssld_pipeline.copies.geometry.match import mutual_nearest, squared_distances
    from ssld_pipeline.copies.geometry.verify_geometry import estimate_transform, match_guided

    pool, protected = look.keypoints, index.own_keypoints(image)
    distances = squared_distances(pool.descriptors, protected.descriptors)
    left, right = mutual_nearest(distances, settings.max_match_distance)
    start = estimate_transform(pool.places[left], protected.places[right])
    if start is None:
        return None
    guided = match_guided(start, pool, protected, distances, settings.max_match_distance)
    counts = len(left), guided.num_inliers
    is_loose = guided.error > _LOOSE_ERROR and guided.distance > _LOOSE_DISTANCE
    return _compare(look.grey, image, guided.homography, "sift", counts, index, is_loose)


def _pairs_by_likeness(
    grey: npt.NDArray[np.uint8], index: ProtectedIndex, settings: SearchSettings, with_thumbnails: bool
) -> list[Evidence]:
    """Finds what key points do not survive: one side squeezed to half, writing all over, or light turned into dark."""
    import numpy as np

    from ssld_pipeline.copies.candidates.perceptual_hash import dihedral_homography, dihedral_looks, propose

    proposed = propose(
        dihedral_looks(grey),
        index.looks,
        settings.max_hash_distance,
        settings.min_thumbnail_correlation if with_thumbnails else None,
    )
    pool_size = (grey.shape[1], grey.shape[0])
    pairs = []
    for image, form, as_negative in proposed[: settings.num_candidates]:
        homography = dihedral_homography(form, pool_size, index.size_of(image))
        seen = np.asarray(255 - grey, np.uint8) if as_negative else grey
        if pair := _compare(seen, image, homography, "perceptual", (0, 0), index):
            pairs.append(pair)
    return pairs


def _compare(
    grey: npt.NDArray[np.uint8],
    image: int,
    homography: Homography,
    method: str,
    counts: tuple[int, int],
    index: ProtectedIndex,
    is_loose: bool = False,
) -> Evidence | None:
    """``is_loose``: do the key points fit so badly that it may be another photograph of the same place?"""
    from ssld_pipeline.copies.geometry.verify_geometry import overlap
    from ssld_pipeline.copies.pixels.block_agreement import compare_through_blur
    from ssld_pipeline.copies.pixels.parallax import unsteadiness

    if index.repeats[image]:
        return _compare_whole(grey, image, method, counts, index)
    own = index.frames[image], homography, index.size_of(image), index.shared_pixels(image)
    compared = compare_through_blur(grey, *own)
    of_pool, of_protected = overlap(compared.homography, (grey.shape[1], grey.shape[0]), index.size_of(image))
    if of_pool < _CORNER_OF_POOL and of_protected < _CORNER_OF_PROTECTED:
        return None
    pair = _as_pair(image, method, counts, compared)
    may_be_other = is_loose and _DOUBTFUL_SCORE <= pair.score < _ONE_SHOT_SCORE
    if may_be_other and unsteadiness(compared.pictures, compared.inside) > _MOST_UNSTEADY_PX:
        return replace(pair, score=_DOUBTFUL_SCORE, is_other=True)
    return pair


def _as_pair(image: int, method: str, counts: tuple[int, int], compared: Comparison) -> Evidence:
    from ssld_pipeline.copies.pixels.tone_curve import explained_share

    score, num_blocks, coverage = compared.agreement
    explained = explained_share(compared.pictures, compared.seen) if score >= _DOUBTFUL_SCORE else 0.0
    return Evidence(image, method, *counts, score, num_blocks, coverage, compared.homography, explained)


def _compare_whole(
    grey: npt.NDArray[np.uint8], image: int, method: str, counts: tuple[int, int], index: ProtectedIndex
) -> Evidence | None:
    """Corner on corner, turned and mirrored in all ways: a part of a pattern is a part of every such pattern. Not
    through its blur: whether blurred patterns can be told from each other was not measured."""
    from ssld_pipeline.copies.candidates.perceptual_hash import NUM_FORMS, dihedral_homography
    from ssld_pipeline.copies.geometry.verify_geometry import is_whole
    from ssld_pipeline.copies.pixels.block_agreement import compare_pixels
    from ssld_pipeline.copies.pixels.occlusion import visible

    pool_size, size = (grey.shape[1], grey.shape[0]), index.size_of(image)
    forms = [dihedral_homography(form, pool_size, size) for form in range(NUM_FORMS)]
    compared = [compare_pixels(grey, index.frames[image], form, size) for form in forms]
    wholes = [each for each in compared if is_whole(each.homography, pool_size, size)]
    if not wholes:
        return None
    best = max(wholes, key=lambda each: each.agreement.score)
    seen = visible(best.pictures, best.inside, index.shared_pixels(image))
    return _as_pair(image, method, counts, best._replace(seen=seen))
