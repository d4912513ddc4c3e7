"""Finds the pool images that may copy a protected image: resized, recompressed, cropped, mirrored, turned, written on.

What is found is evidence; ``dedupe`` decides on it. Thus other thresholds touch no pixel again. Each input is searched
alone, since of one copies may be removed and of another only reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ssld_pipeline.config.dedupe import CHECK_FIELDS, DECISION_FIELDS, POLICY_FIELDS, POOL_FIELDS
from ssld_pipeline.contracts import PAIRS
from ssld_pipeline.errors import BadImage
from ssld_pipeline.stages.stage import Json, PartResult, PartStage, Reject, Setup

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.dedupe import DedupeConfig
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.copies.evidence import Evidence
    from ssld_pipeline.copies.index.protected_index import ProtectedIndex
    from ssld_pipeline.copies.settings import SearchSettings
    from ssld_pipeline.inputs.read import ImageReader


@dataclass(frozen=True)
class _Checked:
    rows: list[dict[str, Any]]
    reject: Reject | None = None


def open_find_copies(setup: Setup, inputs: Sequence[str] | None = None) -> Callable[[pa.Table], PartResult]:
    """Opens the indexes of ``inputs`` (default: all) once; the function returned maps catalog rows of one role to
    ``pairs`` rows."""
    import pyarrow as pa

    from ssld_pipeline.copies.index.protected_index import open_indexes
    from ssld_pipeline.copies.threads import on_threads
    from ssld_pipeline.inputs.read import ImageReader
    from ssld_pipeline.inputs.reading_order import in_reading_order

    config, reader, settings = setup.config.dedupe, ImageReader(), search_settings(setup.config.dedupe)
    indexes = open_indexes(setup.artifacts["index_protected"], config.num_probes, setup.device, inputs)

    def work(rows: pa.Table) -> PartResult:
        if inputs is not None and not indexes:  # nothing to compare with
            return PartResult(PAIRS.row_schema().empty_table())
        records = in_reading_order(rows)
        checked = list(on_threads(lambda record: _check(record, reader, indexes, settings), records, setup.num_threads))
        role = rows["role"][0].as_py() if rows.num_rows else None
        found = pa.Table.from_pylist([{**row, "role": role} for one in checked for row in one.rows], PAIRS.row_schema())
        return PartResult(found, [one.reject for one in checked if one.reject])

    return work


def _check(
    record: dict[str, Any], reader: ImageReader, indexes: Sequence[ProtectedIndex], settings: SearchSettings
) -> _Checked:
    image_id = record["image_id"]
    try:
        data = reader.read(record["uri"], record["offset"], record["size_bytes"])
        return _Checked(pairs_of(image_id, data, indexes, settings))
    except BadImage as bad:
        return _Checked([], Reject(image_id, bad.reason, bad.detail))


def pairs_of(
    image_id: str, data: bytes, indexes: Sequence[ProtectedIndex], settings: SearchSettings
) -> list[dict[str, Any]]:
    """The ``pairs`` rows of one encoded image. Raises BadImage."""
    from ssld_pipeline.copies.pool_image import PoolImage
    from ssld_pipeline.copies.search import find_evidence
    from ssld_pipeline.kernels.digests import digest
    from ssld_pipeline.kernels.images import decode

    own_digest = digest(data)
    exact = [(index, index.by_digest.get(own_digest)) for index in indexes]
    rows = [_exact_row(image_id, original) for _, original in exact if original]
    others = [index for index, original in exact if not original]
    if not others:
        return rows
    try:
        image = decode(data, min_short_side=settings.image_side)
    except BadImage:
        if rows:
            return rows
        raise
    pool_image, size = PoolImage(image.pixels, settings), (image.width, image.height)
    found = ((evidence, index) for index in others for evidence in find_evidence(pool_image, index))
    return rows + [_row(image_id, size, evidence, index) for evidence, index in found]


def _exact_row(image_id: str, protected_id: str) -> dict[str, Any]:
    from ssld_pipeline.copies.pixels.block_agreement import NUM_BLOCKS

    return {
        "image_id": image_id,
        "protected_id": protected_id,
        "method": "exact",
        "num_matches": 0,
        "num_inliers": 0,
        "score": 1.0,
        "num_blocks": NUM_BLOCKS,
        "coverage": 1.0,
        "explained": 1.0,
        "homography": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
        "flipped": False,
    }


def _row(image_id: str, size: tuple[int, int], evidence: Evidence, index: ProtectedIndex) -> dict[str, Any]:
    import numpy as np

    from ssld_pipeline.copies.geometry.homography import in_pixels, longer_to_pixels

    protected_size = index.size_of(evidence.protected)
    homography = in_pixels(evidence.homography, longer_to_pixels(size), longer_to_pixels(protected_size))
    return {
        "image_id": image_id,
        "protected_id": index.image_ids[evidence.protected],
        "method": evidence.method,
        "num_matches": evidence.num_matches,
        "num_inliers": evidence.num_inliers,
        "score": evidence.score,
        "num_blocks": evidence.num_blocks,
        "coverage": evidence.coverage,
        "explained": evidence.explained,
        "homography": homography.ravel().tolist(),
        "flipped": bool(np.linalg.det(evidence.homography) < 0),
    }


def search_settings(config: DedupeConfig) -> SearchSettings:
    from ssld_pipeline.copies.settings import SearchSettings

    return SearchSettings(**config.model_dump(include={field.name for field in fields(SearchSettings)}))


def search_fields(config: RunConfig) -> dict[str, Json]:
    """The settings that can change what is found."""
    other = {*DECISION_FIELDS, *POLICY_FIELDS, *CHECK_FIELDS, *POOL_FIELDS, "max_reject_share"}
    return config.dedupe.model_dump(mode="json", exclude=other)


def _covers(committed: Json, wanted: Json) -> bool:
    """Parts without the column ``role`` serve: its absence means the pool. Their settings differ, so that it is known
    which parts have it."""
    return bool({**committed, "has_role": True} == wanted)


STAGE = PartStage(
    name="find_copies",
    version=18,
    table="pairs",
    reads=("catalog",),
    artifacts=("index_protected",),
    settings=lambda config: {**search_fields(config), "has_role": True},
    covers=_covers,
    open=open_find_copies,
    roles=lambda config: ("pool",),
    section="dedupe",
    checks=("check_dedupe",),
)
