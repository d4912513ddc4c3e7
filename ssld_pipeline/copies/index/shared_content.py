"""What of a protected image is no evidence of a copy, since other images have it too.

A site's watermark, a frame, a letterhead, a screen: found where protected images that are no copies of each other
agree, and where an image agrees with itself moved, as under a tiled watermark. An image that agrees with itself moved
all over (checks, dots) has a copy in every image of its pattern; it is only looked for whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.geometry.hough_votes import rank_by_agreement
from ssld_pipeline.copies.geometry.match import mutual_nearest, squared_distances
from ssld_pipeline.copies.geometry.verify_geometry import estimate_transform, is_whole, match_guided, overlap
from ssld_pipeline.copies.pixels.autocorrelation import self_similar_shifts
from ssld_pipeline.copies.pixels.block_agreement import FRAME_SIDE_PX, compare_pixels, warp_to_frame
from ssld_pipeline.copies.pixels.edges import Mask
from ssld_pipeline.copies.pixels.shared_edges import shared_edges

if TYPE_CHECKING:
    from ssld_pipeline.copies.features.sift import KeyPoints
    from ssld_pipeline.copies.index.protected_index import ProtectedIndex

_NUM_NEIGHBOURS = 8
_NUM_OTHERS = 5
_MIN_VOTES = 2
_MAX_MATCH_DISTANCE = 300.0
_MIN_INLIERS = 6
# From this score on two images are the same picture and share all of it. Below, what they share is no picture: pages
# that differ in one photograph agree to .74.
_SAME_PICTURE = 0.8
# Patterns agree with themselves moved to .99, photographs under a tiled watermark to .7.
_REPEATS = 0.9
# Of the image. A shift leaves at least .4 of it (autocorrelation), alignment a little less; two like quarters are .25.
_MIN_REPEATED = 0.35
_MOVED = 0.06  # of the longer side
_SHIFTED = 0.1  # of each side: clearly more than ``is_whole`` allows for
_NUM_SHIFTS = 2
_VIEW_SIDE_PX = 320

Homography = npt.NDArray[np.float64]


class SharedParts(NamedTuple):
    """``pixels``: bool [128, 128], of the frame. ``repeats``: does the whole image agree with itself moved?"""

    pixels: Mask
    repeats: bool


def find_shared_parts(index: ProtectedIndex, image: int) -> SharedParts:
    """What image number ``image`` shares with others, and with itself; independent of the order of images."""
    pixels = np.zeros((FRAME_SIDE_PX, FRAME_SIDE_PX), np.bool_)
    shifted = (_score(index, image, image, shift, None) for shift in _shifts(index, image))
    repeats = any(repeats_itself(index, image, score, aligned) for score, aligned in shifted)
    for homography in _moves(index, image):
        score, aligned = _score(index, image, image, homography, None)
        if score >= _REPEATS:
            repeats |= repeats_itself(index, image, score, aligned)
        elif np.linalg.det(aligned[:2, :2]) > 0:  # a shirt's halves mirror each other, and are its own
            pixels |= _shared(index, image, image, aligned)
    # Those least alike first: what they share may be all that the next one shares.
    others = [(*_score(index, image, other, found, None), other) for other, found in _others(index, image)]
    for _, homography, other in sorted(others, key=lambda each: (each[0], each[2])):
        score, aligned = _score(index, image, other, homography, pixels)
        if score < _SAME_PICTURE:
            pixels |= _shared(index, image, other, aligned)
    return SharedParts(pixels, repeats)


def _others(index: ProtectedIndex, image: int) -> list[tuple[int, Homography]]:
    own = index.keypoints(image)
    rows = index.neighbours(own.descriptors, _NUM_NEIGHBOURS)
    sources, columns = np.nonzero((rows >= 0) & (index.image_of(rows) != image))
    hit = rows[sources, columns]
    places = own.places[sources], index.places_of(hit)
    candidates, _ = rank_by_agreement(*places, sources, index.image_of(hit), _MIN_VOTES)
    found = []
    for other in candidates[:_NUM_OTHERS].tolist():
        theirs = index.keypoints(other)
        distances = squared_distances(theirs.descriptors, own.descriptors)
        matches = mutual_nearest(distances, _MAX_MATCH_DISTANCE)
        if (homography := _transform(theirs, own, distances, *matches)) is not None:
            found.append((other, homography))
    return found


def repeats_itself(index: ProtectedIndex, image: int, score: float, aligned: Homography) -> bool:
    """Like itself, and not because the alignment has led it back onto itself. Two quarters that are alike are no
    pattern (a photograph made seamless), nor is what a mirror repeats."""
    size = index.size_of(image)
    _, of_image = overlap(aligned, size, size)
    is_moved = np.linalg.det(aligned[:2, :2]) > 0 and not is_whole(aligned, size, size)
    return bool(score >= _REPEATS and is_moved and of_image >= _MIN_REPEATED)


def _shifts(index: ProtectedIndex, image: int) -> list[Homography]:
    """The shifts at which the image is most like itself: what repeats in rows does so whatever its key points say."""
    width, height = index.size_of(image)
    found = self_similar_shifts(index.frames[image], _SHIFTED, _NUM_SHIFTS)
    scale = np.array([width, height]) / max(width, height)
    return [np.array([[1, 0, x], [0, 1, y], [0, 0, 1]]) for x, y in found * scale]


def _moves(index: ProtectedIndex, image: int) -> list[Homography]:
    """Transforms under which the image's key points fall on others of it: at most one mirrored and one not."""
    own = index.keypoints(image)
    if not len(own):
        return []
    distances = squared_distances(own.descriptors, own.descriptors)
    apart = np.linalg.norm(own.positions[:, None] - own.positions[None], axis=2)
    distances[apart < _MOVED] = np.inf
    nearest = distances.argmin(axis=1)
    rows = np.flatnonzero(distances[np.arange(len(own)), nearest] <= _MAX_MATCH_DISTANCE**2)
    flips = own.mirrored[rows] != own.mirrored[nearest[rows]]
    chosen = [rows[flips == flipped] for flipped in (False, True)]
    found = [_transform(own, own, distances, these, nearest[these]) for these in chosen]
    return [homography for homography in found if homography is not None]


def _transform(
    theirs: KeyPoints,
    own: KeyPoints,
    distances: npt.NDArray[np.float32],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
) -> Homography | None:
    start = estimate_transform(theirs.places[left], own.places[right])
    if start is None:
        return None
    guided = match_guided(start, theirs, own, distances, _MAX_MATCH_DISTANCE)
    return guided.homography if guided.num_inliers >= _MIN_INLIERS else None


def _score(
    index: ProtectedIndex, image: int, other: int, homography: Homography, shared: Mask | None
) -> tuple[float, Homography]:
    own = index.frames[image], homography, index.size_of(image), shared
    found = compare_pixels(_view(index, other), *own)
    return found.agreement.score, found.homography


def _shared(index: ProtectedIndex, image: int, other: int, homography: Homography) -> Mask:
    warped, inside = warp_to_frame(_view(index, other), homography, index.size_of(image))
    return shared_edges(warped, index.frames[image].astype(np.float32), inside)


def _view(index: ProtectedIndex, image: int) -> npt.NDArray[np.uint8]:
    """The frame of the image at its own aspect ratio; pixels of the frame are all the index has."""
    width, height = index.size_of(image)
    scale = _VIEW_SIDE_PX / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(index.frames[image], size, interpolation=cv2.INTER_LINEAR), np.uint8)
