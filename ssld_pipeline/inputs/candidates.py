"""Turns what a reader found in a shard into rows of ``catalog``: ids made unique, labels made class numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from ssld_pipeline.contracts import CATALOG, Reject
from ssld_pipeline.inputs.names import Ids
from ssld_pipeline.inputs.shard import Shard

LABELLED_ROLES = frozenset({"labeled", "protected", "teacher"})


class Candidate(NamedTuple):
    """An image a reader found. ``labels``: what may name its class, the most telling first; ``are_written``: as labels
    (a cls file, a column), where a number counts; names of folders and archives are names alone, whatever they are."""

    image_id: str
    uri: str
    offset: int
    size_bytes: int
    stamp: str
    labels: tuple[str, ...] = ()
    are_written: bool = True


class ClassList:
    def __init__(self, names: tuple[str, ...]) -> None:
        self._ids = {name: number for number, name in enumerate(names)}

    def find(self, labels: Iterable[str], are_written: bool) -> int | None:
        """The class that the first telling label means: by name; where labels are written, else by number.

        img2dataset and webdataset call their shards 00001.tar: never class 1.
        """
        for label in labels:
            if label in self._ids:
                return self._ids[label]
            if are_written and label.isascii() and label.isdigit() and int(label) < len(self._ids):
                return int(label)
        return None


def catalogue(
    shard: Shard, candidates: Iterable[Candidate], classes: ClassList, images_per_part: int
) -> tuple[pa.Table, list[Reject], Ids]:
    """Rows of the catalog, rejects (duplicate_name, unknown_class), and the ids that were given out."""
    ids = Ids()
    rejects: list[Reject] = []
    kept: list[tuple[object, ...]] = []
    for candidate in candidates:
        repeated = candidate.image_id in ids
        image_id = ids.unique(candidate.image_id)
        class_id = classes.find(candidate.labels, candidate.are_written) if shard.role in LABELLED_ROLES else None
        if repeated:
            rejects.append(Reject(image_id, "duplicate_name", f"{candidate.image_id} comes twice; the first is used"))
        elif class_id is None and shard.role in ("labeled", "teacher"):
            rejects.append(Reject(image_id, "unknown_class", _named(candidate.labels)))
        else:
            kept.append(
                (
                    image_id,
                    shard.role,
                    candidate.uri,
                    candidate.offset,
                    candidate.size_bytes,
                    class_id,
                    candidate.stamp,
                    shard.part(len(kept) // images_per_part),
                )
            )
    return _table(kept), rejects, ids


def _named(labels: tuple[str, ...]) -> str:
    return f"{' or '.join(map(repr, labels))} names no class of the run" if labels else "no label"


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    schema = CATALOG.schema()
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
