"""Builds the index of every image that the pool is checked against."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import BadImage
from ssld_pipeline.rejects import refuse_gaps
from ssld_pipeline.stages.stage import ArtifactStage, Json, Reject, Setup

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.dedupe import DedupeConfig
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.copies.index.protected_index import Portrait
    from ssld_pipeline.copies.settings import IndexSettings
    from ssld_pipeline.inputs.read import ImageReader

INDEX_FIELDS = ("against", "image_side", "protected_keypoints", "stop_recurrence")
_FIGURES = (
    "num_images",
    "num_vectors",
    "num_without_keypoints",
    "num_stopped",
    "num_sharing",
    "num_repeating",
    "bytes",
)


@dataclass(frozen=True)
class _Seen:
    image_id: str
    digest: bytes | None
    portrait: Portrait | None
    reject: Reject | None


def build(setup: Setup, rows: pa.Table, folder: Path) -> tuple[dict[str, Json], list[Reject]]:
    """Fills a folder of ``folder`` for each input (see ``protected_index``) from catalog rows, in whatever order.

    No input has a say in what is found of another: what recurs within it, what its many images crowd out, stays with
    it. Rejects: images that cannot be decoded. Their bytes are still recognised.
    """
    from ssld_pipeline.copies.index.build import index_vectors
    from ssld_pipeline.copies.index.protected_index import folders_for
    from ssld_pipeline.inputs.reading_order import in_reading_order

    config, records, rejects = setup.config.dedupe, defaultdict(list), list[Reject]()
    for record in in_reading_order(rows):
        records[record["image_id"].split("/", 1)[0]].append(record)
    folders = dict(zip(records, folders_for(list(records), folder), strict=True))
    for name, own in records.items():
        lost = _write_images(own, config, setup.num_threads, folders[name])
        allowed = config.max_reject_share * len(own)
        consequence = "their copies would stay in the pool"
        refuse_gaps("index_protected", f"images of the input {name!r}", lost, len(own), allowed, consequence)
        rejects += lost
    figures = Counter(num_images=len(rows) - len(rejects))
    for place in folders.values():
        figures.update(index_vectors(place, config.stop_recurrence, setup.num_threads))
        figures["bytes"] += sum(file.stat().st_size for file in place.iterdir())
    return {name: figures[name] for name in _FIGURES}, rejects


def _write_images(records: list[dict[str, Any]], config: DedupeConfig, num_threads: int, folder: Path) -> list[Reject]:
    from ssld_pipeline.copies.index.protected_index import ImageWriter
    from ssld_pipeline.copies.threads import on_threads
    from ssld_pipeline.inputs.read import ImageReader

    reader, rejects, settings = ImageReader(), [], index_settings(config)
    with ImageWriter(folder) as writer:
        for seen in on_threads(lambda record: _see(record, reader, settings), records, num_threads):
            if seen.digest:
                writer.add_file(seen.image_id, seen.digest)
            if seen.portrait:
                writer.add_image(seen.image_id, seen.portrait)
            if seen.reject:
                rejects.append(seen.reject)
    return rejects


def _see(record: dict[str, Any], reader: ImageReader, settings: IndexSettings) -> _Seen:
    from ssld_pipeline.copies.index.build import portray
    from ssld_pipeline.kernels.digests import digest

    image_id, own_digest = record["image_id"], None
    try:
        data = reader.read(record["uri"], record["offset"], record["size_bytes"])
        own_digest = digest(data)
        return _Seen(image_id, own_digest, portray(data, settings), None)
    except BadImage as bad:
        return _Seen(image_id, own_digest, None, Reject(image_id, bad.reason, bad.detail))


def index_settings(config: DedupeConfig) -> IndexSettings:
    from ssld_pipeline.copies.settings import IndexSettings

    return IndexSettings(config.image_side, config.protected_keypoints, config.stop_recurrence)


def _settings(config: RunConfig) -> dict[str, Json]:
    return config.dedupe.model_dump(mode="json", include=set(INDEX_FIELDS))


STAGE = ArtifactStage(
    name="index_protected",
    version=15,
    reads=("catalog",),
    settings=_settings,
    build=build,
    roles=lambda config: config.dedupe.against,
)
