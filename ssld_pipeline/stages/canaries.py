"""Canaries: altered copies of protected images, made to see whether dedupe finds them. None ever enters the pool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import BadImage
from ssld_pipeline.stages.dedupe import is_copy, is_reported
from ssld_pipeline.stages.find_copies import pairs_of, pairs_table
from ssld_pipeline.stages.stage import Reject

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.dedupe import DedupeConfig
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.copies.index.protected_index import ProtectedIndex
    from ssld_pipeline.inputs.read import ImageReader

# Bounds what a canary costs. The search itself looks at a quarter of this.
_LONGER_SIDE_PX = 1024


@dataclass(frozen=True)
class Canary:
    """A copy of ``protected_id`` altered in the way ``kind``, one of ``alterations.KINDS``."""

    number: int
    protected_id: str
    kind: str

    @property
    def image_id(self) -> str:
        return f"canary/{self.number:05d}"


@dataclass(frozen=True)
class Trial:
    """What the search said of a canary: ``pairs`` rows of the encoded copy ``data``."""

    canary: Canary
    data: bytes
    pairs: list[dict[str, Any]]


def draw(image_ids: Iterable[str], count: int) -> list[Canary]:
    """``count`` canaries, kinds by turns; no image a second time before each has had its turn; none without images.

    The order of ``image_ids`` does not matter: a digest of each draws it.
    """
    from ssld_pipeline.copies.planted.alterations import KINDS

    images, drawn, turn = list(image_ids), list[str](), 0
    while images and len(drawn) < count:
        drawn += nsmallest(count - len(drawn), images, key=lambda image: _number([turn, image]))
        turn += 1
    return [Canary(number, image, KINDS[number % len(KINDS)]) for number, image in enumerate(drawn)]


def try_out(
    record: dict[str, Any],
    canaries: Sequence[Canary],
    reader: ImageReader,
    indexes: Sequence[ProtectedIndex],
    config: DedupeConfig,
) -> tuple[list[Trial], list[Reject]]:
    """Makes the canaries of one catalog row and looks each of them up as find_copies would.

    One that cannot be made (the image cannot be read any more, too little is left of it) is no trial; the image is
    rejected, once.
    """
    trials, rejects = [], []
    for canary in canaries:
        try:
            original = reader.read(record["uri"], record["offset"], record["size_bytes"])
            data = _altered(original, canary)
            trials.append(Trial(canary, data, pairs_of(canary.image_id, data, indexes, config)))
        except BadImage as bad:
            rejects.append(Reject(canary.protected_id, bad.reason, f"as {canary.kind}: {bad.detail}"))
    return trials, rejects[:1]


def _altered(original: bytes, canary: Canary) -> bytes:
    import numpy as np

    from ssld_pipeline.copies.planted.alterations import plant
    from ssld_pipeline.kernels.images import decode, encode_jpeg

    if canary.kind == "exact":
        return original
    rng = np.random.default_rng(_number([canary.number, canary.protected_id, canary.kind]))
    pixels = _reduced(decode(original, min_short_side=_LONGER_SIDE_PX // 2).pixels)
    return encode_jpeg(plant(pixels, canary.kind, rng))


def _reduced(pixels: Any) -> Any:
    import cv2

    scale = _LONGER_SIDE_PX / max(pixels.shape)
    size = max(8, round(pixels.shape[1] * scale)), max(8, round(pixels.shape[0] * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels


def _number(key: list[Any]) -> int:
    """Out of 2^64, the same for the same key on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


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
    removes = f"{is_copy(config.dedupe)} AND NOT {is_reported(config)}"
    connection.register("pairs", pairs_table([row for t in trials for row in t.pairs]))
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
