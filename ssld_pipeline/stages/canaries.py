"""What the search finds of canaries, and what dedupe makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import PAIRS
from ssld_pipeline.copies.decision import is_copy
from ssld_pipeline.errors import BadImage
from ssld_pipeline.stages.dedupe import is_reported, thresholds
from ssld_pipeline.stages.find_copies import pairs_of
from ssld_pipeline.stages.stage import Reject

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.copies.index.protected_index import ProtectedIndex
    from ssld_pipeline.copies.planted.canaries import Canary
    from ssld_pipeline.copies.settings import SearchSettings
    from ssld_pipeline.inputs.read import ImageReader


@dataclass(frozen=True)
class Trial:
    """What the search said of a canary: ``pairs`` rows of the encoded copy ``data``."""

    canary: Canary
    data: bytes
    pairs: list[dict[str, Any]]


def try_out(
    record: dict[str, Any],
    canaries: Sequence[Canary],
    reader: ImageReader,
    indexes: Sequence[ProtectedIndex],
    settings: SearchSettings,
) -> tuple[list[Trial], list[Reject]]:
    """Makes the canaries of one catalog row and looks each of them up as find_copies would.

    One that cannot be made (the image cannot be read any more, too little is left of it) is no trial; the image is
    rejected, once.
    """
    from ssld_pipeline.copies.planted.canaries import altered

    trials, rejects = [], []
    for canary in canaries:
        try:
            original = reader.read(record["uri"], record["offset"], record["size_bytes"])
            data = altered(original, canary)
            trials.append(Trial(canary, data, pairs_of(canary.image_id, data, indexes, settings)))
        except BadImage as bad:
            rejects.append(Reject(canary.protected_id, bad.reason, f"as {canary.kind}: {bad.detail}"))
    return trials, rejects[:1]


def judge(trials: Sequence[Trial], config: RunConfig) -> pa.Table:
    """One row per trial, decided by dedupe's own rule.

    Columns: number, image_id, protected_id, kind; ``is_found``: would be kept out of the pool; ``is_right``: as a copy
    of the image that it copies; matched_id and the evidence as in ``pairs``: the pair that decided, or came nearest.
    """
    import duckdb
    import pyarrow as pa

    planted = [(t.canary.number, t.canary.image_id, t.canary.protected_id, t.canary.kind) for t in trials]
    names = {"number": pa.int64(), "image_id": pa.string(), "protected_id": pa.string(), "kind": pa.string()}
    columns = list(zip(*planted, strict=True)) or [()] * len(names)
    connection = duckdb.connect()
    connection.register("canaries", pa.table(dict(zip(names, columns, strict=True)), pa.schema(names)))
    removes = f"{is_copy(thresholds(config.dedupe))} AND NOT {is_reported(config)}"
    connection.register("pairs", pa.Table.from_pylist([row for t in trials for row in t.pairs], PAIRS.row_schema()))
    return connection.sql(f"""
        SELECT c.*, coalesce(p.is_copy, false) AS is_found, coalesce(p.is_copy AND p.is_own, false) AS is_right,
               p.matched_id, p.method, p.num_matches, p.num_inliers, p.score, p.num_blocks, p.coverage, p.explained
        FROM canaries c LEFT JOIN (
            SELECT pairs.* RENAME (protected_id AS matched_id), pairs.protected_id = canaries.protected_id AS is_own
            FROM (SELECT *, {removes} AS is_copy FROM pairs) pairs JOIN canaries USING (image_id)) p USING (image_id)
        QUALIFY row_number() OVER (PARTITION BY number ORDER BY is_right DESC, is_found DESC, p.is_own DESC NULLS LAST,
                                   p.score DESC NULLS LAST, p.matched_id) = 1
        ORDER BY number
    """).to_arrow_table()
