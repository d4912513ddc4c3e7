"""Builds the index of every image that the pool is checked against."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ssld_pipeline.errors import BadImage
from ssld_pipeline.rejects import refuse_gaps
from ssld_pipeline.stages.stage import ArtifactStage, Json, Reject, Setup

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from ssld_pipeline.config.dedupe import DedupeConfig
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.copies.index.protected_index import Portrait, ProtectedIndex
    from ssld_pipeline.copies.index.shared_content import SharedParts
    from ssld_pipeline.inputs.read import ImageReader

Item = TypeVar("Item")
Result = TypeVar("Result")

INDEX_FIELDS = ("against", "image_side", "protected_keypoints", "stop_recurrence")
# Euclidean; a descriptor's norm is about 512. On product photographs 5 % of all key points recur in 8 others within
# 125, 21 % within 200, which is no longer a watermark's doing.
_RECURRENCE_DISTANCE = 125
_NUM_PROBES = 4
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
    from ssld_pipeline.copies.index.protected_index import folders_for

    config, records, rejects = setup.config.dedupe, defaultdict(list), list[Reject]()
    for record in in_reading_order(rows):
        records[record["image_id"].split("/", 1)[0]].append(record)
    folders = dict(zip(records, folders_for(list(records), folder), strict=True))
    for name, own in records.items():
        lost = _write_images(own, config, setup.num_threads, folders[name])
        allowed = config.max_reject_share * len(own)
        so = "their copies would stay in the pool"
        refuse_gaps("index_protected", f"images of the input {name!r}", lost, len(own), allowed, so)
        rejects += lost
    figures = Counter(num_images=len(rows) - len(rejects))
    for place in folders.values():
        figures.update(_write_vectors(config, setup.num_threads, place))
        figures["bytes"] += sum(file.stat().st_size for file in place.iterdir())
    return {name: figures[name] for name in _FIGURES}, rejects


def in_reading_order(rows: pa.Table) -> list[dict[str, Any]]:
    """Catalog rows, file by file and forwards within each, whatever the order of ``rows``."""
    records = rows.select(["image_id", "uri", "offset", "size_bytes"]).sort_by("image_id").to_pylist()
    first: dict[str, int] = {}
    for number, record in enumerate(records):
        first.setdefault(record["uri"], number)
    return sorted(records, key=lambda record: (first[record["uri"]], record["offset"], record["image_id"]))


def on_threads(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """``function`` of each item, in their order, by threads within each of which OpenCV and FAISS use one."""
    import cv2

    from ssld_pipeline.copies.candidates.nearest import use_one_thread
    from ssld_pipeline.inputs.ahead import ahead

    cv2.setNumThreads(1)

    def alone(item: Item) -> Result:
        use_one_thread()
        return function(item)

    return ahead(alone, items, num_threads)


def _write_images(records: list[dict[str, Any]], config: DedupeConfig, num_threads: int, folder: Path) -> list[Reject]:
    from ssld_pipeline.copies.index.protected_index import ImageWriter
    from ssld_pipeline.inputs.read import ImageReader

    reader, rejects = ImageReader(), []
    with ImageWriter(folder) as writer:
        for seen in on_threads(lambda record: _see(record, reader, config), records, num_threads):
            if seen.digest:
                writer.add_file(seen.image_id, seen.digest)
            if seen.portrait:
                writer.add_image(seen.image_id, seen.portrait)
            if seen.reject:
                rejects.append(seen.reject)
    return rejects


def _see(record: dict[str, Any], reader: ImageReader, config: DedupeConfig) -> _Seen:
    from ssld_pipeline.copies.index.protected_index import digest

    image_id, own_digest = record["image_id"], None
    try:
        data = reader.read(record["uri"], record["offset"], record["size_bytes"])
        own_digest = digest(data)
        return _Seen(image_id, own_digest, portray(data, config), None)
    except BadImage as bad:
        return _Seen(image_id, own_digest, None, Reject(image_id, bad.reason, bad.detail))


def portray(data: bytes, config: DedupeConfig) -> Portrait:
    """What the index keeps of an encoded image; raises BadImage."""
    from ssld_pipeline.copies.candidates.perceptual_hash import look
    from ssld_pipeline.copies.features.sift import detect_keypoints, resize_grey
    from ssld_pipeline.copies.index.protected_index import Portrait
    from ssld_pipeline.copies.pixels.block_agreement import protected_frame
    from ssld_pipeline.kernels.images import decode

    image = decode(data, min_short_side=config.image_side)
    grey = resize_grey(image.pixels, config.image_side)
    keypoints = detect_keypoints(grey, config.protected_keypoints, coarse_share=1 / 3)
    return Portrait(image.width, image.height, protected_frame(grey), look(grey), keypoints)


def _write_vectors(config: DedupeConfig, num_threads: int, folder: Path) -> dict[str, int]:
    """Writes the FAISS index, and what recurs in several images.

    num_stopped: key points on the stop list. num_sharing: images that share some of their pixels with another one, or
    with themselves moved. num_repeating: images that repeat all over.
    """
    import numpy as np

    from ssld_pipeline.copies.candidates.nearest import build_index
    from ssld_pipeline.copies.index.mapped_vectors import write_vectors
    from ssld_pipeline.copies.index.protected_index import RecurrenceWriter, open_index
    from ssld_pipeline.copies.index.shared_content import find_shared_parts

    descriptors = np.load(folder / "descriptors.npy", mmap_mode="r")
    write_vectors(build_index(descriptors, num_threads), folder)
    index, recurrence = open_index(folder, _NUM_PROBES, with_recurrence=False), config.stop_recurrence
    counts = Counter(num_stopped=0, num_sharing=0, num_repeating=0)

    def look_for(image: int) -> tuple[npt.NDArray[np.bool_], SharedParts]:
        return _recurring(index, image, recurrence), find_shared_parts(index, image)

    with RecurrenceWriter(folder) as writer:
        for stopped, parts in on_threads(look_for, range(len(index.image_ids)), num_threads):
            writer.add_image(stopped, parts)
            own = {"num_stopped": stopped.sum(), "num_sharing": parts.pixels.any(), "num_repeating": parts.repeats}
            counts.update({name: int(count) for name, count in own.items()})
    return {
        "num_vectors": len(descriptors),
        "num_without_keypoints": int((np.diff(index.first_keypoints) == 0).sum()),
        **counts,
    }


def _recurring(index: ProtectedIndex, image: int, stop_recurrence: int) -> npt.NDArray[np.bool_]:
    """bool per key point of ``image``: does it recur in ``stop_recurrence`` other protected images?

    An image most of whose key points recur is itself repeated (a burst, copies); it keeps them all, or nothing of it
    could be found.
    """
    import numpy as np

    from ssld_pipeline.copies.candidates.nearest import search

    own = index.keypoints(image).descriptors
    if not len(own):
        return np.zeros(0, np.bool_)
    _, rows = search(index.vectors, own, 2 * stop_recurrence + 2)
    found = index.descriptors[np.maximum(rows, 0)].astype(np.int32)
    near = ((found - own[:, None].astype(np.int32)) ** 2).sum(axis=2) <= _RECURRENCE_DISTANCE**2
    others = np.where(near & (rows >= 0), index.image_of(rows), -1)
    others = np.sort(np.where(others == image, -1, others), axis=1)
    is_new = (others >= 0) & (np.diff(others, axis=1, prepend=-1) != 0)
    recurs = is_new.sum(axis=1) >= stop_recurrence
    return np.zeros_like(recurs) if recurs.mean() > 0.5 else np.asarray(recurs)


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
