"""The catalog: every image of every input, with its address, its label and the part of work it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ssld_pipeline.stages.stage import Json, PartResult, PartStage, Setup

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig


def _settings(config: RunConfig) -> dict[str, Json]:
    return {"images_per_part": config.catalog.images_per_part}


def _open(setup: Setup) -> Callable[[pa.Table], PartResult]:
    """From a shard's listing (``Shard.to_table``) to its images; unlike other stages it names the parts itself."""
    from ssld_pipeline.inputs.scan import scan
    from ssld_pipeline.inputs.shard import Shard

    classes, images_per_part = setup.classes, setup.config.catalog.images_per_part

    def work(listing: pa.Table) -> PartResult:
        rows, rejects = scan(Shard.from_table(listing), classes, images_per_part)
        return PartResult(rows, rejects)

    return work


STAGE = PartStage(
    name="catalog",
    version=2,
    table="catalog",
    reads=(),
    settings=_settings,
    open=_open,
    per="shard",
    section="catalog",
    uses_classes=True,
)
