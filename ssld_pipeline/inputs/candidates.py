"""Turns what a reader found in a shard into rows of ``catalog``: ids made unique, labels made class numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from ssld_pipeline.contracts import CATALOG, Reject, RejectOfMany
from ssld_pipeline.inputs.labels import ClassList, Label, count_in_words
from ssld_pipeline.inputs.names import Ids
from ssld_pipeline.inputs.shard import Shard

LABELLED_ROLES = frozenset({"labeled", "protected", "teacher"})


class Candidate(NamedTuple):
    """An image a reader found. ``labels``: what may name its class, the most telling first; ``are_written``: as labels
    (a cls file, a column), where a number counts; names of folders and archives are names alone, whatever they are.
    ``unlabelled``: why there is no label."""

    image_id: str
    uri: str
    offset: int
    size_bytes: int
    stamp: str
    labels: tuple[str, ...] = ()
    are_written: bool = True
    unlabelled: str = ""


def labels_of(candidate: Candidate, shard: Shard) -> tuple[Label, ...]:
    """What may name the candidate's class. A tar's own name comes last, after the folder within it."""
    if shard.labels == "none":
        return ()
    if candidate.are_written:
        return tuple(Label("label", text) for text in candidate.labels)
    kinds = ("folder", "archive")[-len(candidate.labels) :] if shard.format == "tar" else ("folder",)
    return tuple(Label(kind, text) for kind, text in zip(kinds, candidate.labels, strict=False))


def _meant(labels: tuple[Label, ...], shard: Shard, classes: ClassList) -> Label | None:
    """The label of an image without a class; None where it has none: the name of a tar is one where others are."""
    kinds = ("label", "folder", "archive") if shard.labels == "archives" else ("label", "folder")
    return next((label for label in labels if label.kind in kinds and not classes.is_absent(label)), None)


def catalogue(
    shard: Shard, candidates: Iterable[Candidate], classes: ClassList, images_per_part: int
) -> tuple[pa.Table, list[Reject], Ids]:
    """Rows of the catalog, rejects (duplicate_name, unknown_class), and the ids that were given out.

    A protected image whose label names no class is kept, as it guards; the shard is the reject that counts such images.
    """
    ids = Ids()
    unknown: defaultdict[Label, list[str]] = defaultdict(list)
    rejects: list[Reject] = []
    kept: list[tuple[object, ...]] = []
    for candidate in candidates:
        repeated = candidate.image_id in ids
        image_id = ids.unique(candidate.image_id)
        labels = labels_of(candidate, shard) if shard.role in LABELLED_ROLES else ()
        class_id = classes.find(labels)
        meant = _meant(labels, shard, classes) if class_id is None else None
        if repeated:
            rejects.append(Reject(image_id, "duplicate_name", f"{candidate.image_id} comes twice; the first is used"))
        elif class_id is None and shard.role in ("labeled", "teacher"):
            why = classes.says(meant) if meant else candidate.unlabelled or "no label"
            rejects.append(Reject(image_id, "unknown_class", why))
        else:
            if meant:
                unknown[meant].append(image_id)
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
    if unknown:
        rejects.append(RejectOfMany(ids.unique(shard.name), "unknown_class", count_in_words(unknown, classes), 0))
    return _table(kept), rejects, ids


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    schema = CATALOG.schema()
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
