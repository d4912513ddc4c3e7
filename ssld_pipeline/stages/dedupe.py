"""Finds the pool images that copy a protected image: resized, recompressed, cropped, mirrored, turned, written on.

Cheapest first: equal bytes; then SIFT votes propose protected images and geometry checks them, and whole-picture
likeness proposes more; a proposal is confirmed by comparing pixels, never by counts of matches alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssld_pipeline.errors import BadImage
from ssld_pipeline.settings import Settings
from ssld_pipeline.stages.index_protected import in_reading_order, on_threads
from ssld_pipeline.stages.stage import Json, PartResult, PartStage, Reject, Setup

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from ssld_pipeline.config import RunConfig
    from ssld_pipeline.inputs.read import ImageReader
    from ssld_pipeline.stages.protected_index import ProtectedIndex

_ROWS_PER_IMAGE = 3


class DedupeConfig(Settings):
    against: tuple[str, ...] = ("protected",)
    """Roles or input names whose copies are removed from the pool."""
    image_side: int = Field(256, ge=64)
    """Longer side at which images are searched for key points, pixels."""
    protected_keypoints: int = Field(400, gt=0)
    """Most key points kept per protected image, over two scales."""
    pool_keypoints: int = Field(200, gt=0)
    """Most key points looked up per pool image."""
    stop_recurrence: int = Field(8, gt=1)
    """A key point that recurs in this many other protected images (a site's watermark) does not vote."""
    num_probes: int = Field(4, gt=0)
    """Lists of the FAISS index visited per key point."""
    num_neighbours: int = Field(4, gt=0)
    """Nearest protected key points that one pool key point votes for."""
    min_votes: int = Field(3, gt=0)
    """Key points of the pool image that must vote for a protected image before the pair is looked at."""
    num_candidates: int = Field(5, gt=0)
    """Most protected images looked at per pool image, by votes; and again by whole-picture likeness."""
    max_match_distance: float = Field(300, gt=0)
    """Largest Euclidean distance of two matched descriptors, whose norm is about 512."""
    min_inliers: int = Field(6, ge=4)
    """Matches at distinct positions that must agree on one transform."""
    max_hash_distance: int = Field(10, ge=0, le=64)
    """Perceptual hashes that differ in at most this many of 64 bits propose a pair."""
    min_thumbnail_correlation: float = Field(0.94, gt=0, le=1)
    """16x16 thumbnails at least this correlated propose a pair."""
    min_score: float = Field(0.5, gt=0, le=1)
    """Share of pixel blocks that must agree for a pair to be a copy."""
    min_perceptual_score: float = Field(0.8, gt=0, le=1)
    """The same for a pair that no key points support."""
    min_blocks: int = Field(6, gt=0, le=64)
    """Pixel blocks, of the protected image's 64, that must be comparable."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """A part that loses a larger share of its images than this (and more than 10) is not committed."""


@dataclass(frozen=True)
class Pair:
    """A pool image beside protected image number ``protected``; ``homography``: in units of the longer sides."""

    protected: int
    method: str
    num_matches: int
    num_inliers: int
    score: float
    homography: npt.NDArray[np.float64]
    is_duplicate: bool


@dataclass(frozen=True)
class _Checked:
    rows: list[dict[str, Any]]
    reject: Reject | None = None


def open_dedupe(setup: Setup) -> Callable[[pa.Table], PartResult]:
    """Loads the index once; the function returned maps catalog rows to ``duplicates`` rows."""
    from ssld_pipeline.inputs.read import ImageReader
    from ssld_pipeline.stages.protected_index import open_index

    config, reader = setup.config.dedupe, ImageReader()
    index = open_index(setup.artifacts["index_protected"], config.num_probes)

    def work(rows: pa.Table) -> PartResult:
        records = in_reading_order(rows)
        checked = list(on_threads(lambda record: _check(record, reader, index, config), records, setup.num_threads))
        found = [row for one in checked for row in one.rows]
        return PartResult(_table(found), [one.reject for one in checked if one.reject])

    return work


def find_pairs(pixels: npt.NDArray[np.uint8], index: ProtectedIndex, config: DedupeConfig) -> list[Pair]:
    """The pairs whose pixels were compared, copies first, then by falling score; each protected image once."""
    from ssld_pipeline.kernels.sift import resize_grey

    grey = resize_grey(pixels, config.image_side)
    pairs = _pairs_by_keypoints(grey, index, config)
    if not any(p.is_duplicate for p in pairs):
        pairs += _pairs_by_looks(grey, index, config)
    best: dict[int, Pair] = {}
    for pair in sorted(pairs, key=lambda p: (not p.is_duplicate, -p.score, p.protected, p.method)):
        best.setdefault(pair.protected, pair)
    return list(best.values())


def _check(record: dict[str, Any], reader: ImageReader, index: ProtectedIndex, config: DedupeConfig) -> _Checked:
    from ssld_pipeline.kernels.images import decode
    from ssld_pipeline.stages.protected_index import digest

    image_id = record["image_id"]
    try:
        data = reader.read(record["uri"], record["offset"], record["size_bytes"])
        original = index.by_digest.get(digest(data))
        if original is not None:
            return _Checked([_exact_row(image_id, original)])
        image = decode(data, min_short_side=config.image_side)
    except BadImage as bad:
        return _Checked([], Reject(image_id, bad.reason, bad.detail))
    pairs = find_pairs(image.pixels, index, config)[:_ROWS_PER_IMAGE]
    return _Checked([_row(image_id, (image.width, image.height), pair, index) for pair in pairs])


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
        if transform is not None and transform.num_inliers >= config.min_inliers:
            counts = len(left), transform.num_inliers
            pairs.append(_compare(grey, int(image), transform.homography, "sift", counts, index, config))
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
        homography = dihedral_homography(form, pool_size, _size(index, image))
        pairs.append(_compare(grey, image, homography, "perceptual", (0, 0), index, config))
    return pairs


def _compare(
    grey: npt.NDArray[np.uint8],
    image: int,
    homography: npt.NDArray[np.float64],
    method: str,
    counts: tuple[int, int],
    index: ProtectedIndex,
    config: DedupeConfig,
) -> Pair:
    from ssld_pipeline.kernels.block_agreement import compare_pixels

    agreement, aligned = compare_pixels(grey, index.frames[image], homography, _size(index, image))
    min_score = config.min_score if method == "sift" else config.min_perceptual_score
    is_duplicate = agreement.score >= min_score and agreement.num_blocks >= config.min_blocks
    return Pair(image, method, *counts, agreement.score, aligned, is_duplicate)


def _size(index: ProtectedIndex, image: int) -> tuple[int, int]:
    width, height = index.sizes[image]
    return int(width), int(height)


def _exact_row(image_id: str, protected_id: str) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "protected_id": protected_id,
        "method": "exact",
        "num_matches": 0,
        "num_inliers": 0,
        "score": 1.0,
        "homography": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
        "flipped": False,
        "is_duplicate": True,
    }


def _row(image_id: str, size: tuple[int, int], pair: Pair, index: ProtectedIndex) -> dict[str, Any]:
    import numpy as np

    from ssld_pipeline.kernels.verify_geometry import pixel_homography

    homography = pixel_homography(pair.homography, size, _size(index, pair.protected))
    return {
        "image_id": image_id,
        "protected_id": index.image_ids[pair.protected],
        "method": pair.method,
        "num_matches": pair.num_matches,
        "num_inliers": pair.num_inliers,
        "score": pair.score,
        "homography": homography.ravel().tolist(),
        "flipped": bool(np.linalg.det(pair.homography) < 0),
        "is_duplicate": pair.is_duplicate,
    }


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    from ssld_pipeline.contracts import DUPLICATES

    schema = DUPLICATES.schema()
    return pa.Table.from_pylist(rows, schema.remove(schema.get_field_index("part")))


def _settings(config: RunConfig) -> dict[str, Json]:
    return config.dedupe.model_dump(mode="json", exclude={"max_reject_share"})


STAGE = PartStage(
    name="dedupe",
    version=1,
    table="duplicates",
    reads=("catalog",),
    artifacts=("index_protected",),
    settings=_settings,
    open=open_dedupe,
    roles=lambda config: ("pool",),
)
