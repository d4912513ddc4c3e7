"""Takes a short look at every pool image: what ``group_pool`` needs to find near-identical ones among millions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import LOOKS
from ssld_pipeline.errors import BadImage
from ssld_pipeline.stages.stage import PartResult, PartStage, Reject, Setup

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.inputs.read import ImageReader

# A thumbnail has 32 pixels a side: a JPEG is decoded at a fraction of its size, in half the time.
_MIN_SHORT_SIDE, _SIDE = 64, 256


def open_look(setup: Setup) -> Callable[[pa.Table], PartResult]:
    """The function from catalog rows to ``looks`` rows. Rejects: images that cannot be decoded."""
    import pyarrow as pa

    from ssld_pipeline.copies.threads import on_threads
    from ssld_pipeline.inputs.read import ImageReader
    from ssld_pipeline.inputs.reading_order import in_reading_order

    reader = ImageReader()

    def work(rows: pa.Table) -> PartResult:
        seen = list(on_threads(lambda record: _look(record, reader), in_reading_order(rows), setup.num_threads))
        rejects = [one for one in seen if isinstance(one, Reject)]
        found = [one for one in seen if not isinstance(one, Reject)]
        return PartResult(pa.Table.from_pylist(found, LOOKS.row_schema()), rejects)

    return work


def _look(record: dict[str, Any], reader: ImageReader) -> dict[str, Any] | Reject:
    from ssld_pipeline.copies.candidates.perceptual_hash import thumbnail
    from ssld_pipeline.copies.features.sift import resize_grey
    from ssld_pipeline.kernels.digests import digest
    from ssld_pipeline.kernels.images import decode

    image_id = record["image_id"]
    try:
        data = reader.read(record["uri"], record["offset"], record["size_bytes"])
        image = decode(data, min_short_side=_MIN_SHORT_SIDE)
    except BadImage as bad:
        return Reject(image_id, bad.reason, bad.detail)
    return {
        "image_id": image_id,
        "digest": digest(data).hex(),
        "width": image.width,
        "height": image.height,
        "thumbnail": thumbnail(resize_grey(image.pixels, _SIDE)).tobytes(),
    }


STAGE = PartStage(
    name="look",
    version=1,
    table="looks",
    reads=("catalog",),
    settings=lambda config: {},
    open=open_look,
    roles=lambda config: ("pool",),
    enabled=lambda config: config.dedupe.within_pool,
    section="dedupe",
)
