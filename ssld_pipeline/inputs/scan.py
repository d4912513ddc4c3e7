"""A shard's images as rows of ``catalog``; what cannot be one becomes a reject. Image data is not decoded."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from ssld_pipeline.contracts import Reject
from ssld_pipeline.inputs import folder, parquet, pathlist, tar
from ssld_pipeline.inputs.candidates import LABELLED_ROLES, Candidate, catalogue
from ssld_pipeline.inputs.labels import ClassList
from ssld_pipeline.inputs.shard import Shard


def scan(shard: Shard, classes: tuple[str, ...], images_per_part: int) -> tuple[pa.Table, list[Reject]]:
    """Rows in ``contracts.CATALOG``'s schema, ``part`` included, and rejects; no image_id comes twice in the two.

    Labels count for the roles labeled, protected and teacher only. Without a class of the run, a protected image is
    kept with class_id null (it still guards against leaks), a labeled one is an ``unknown_class``. Protected images
    whose label names no class are counted in one ``unknown_class`` for their shard.
    """
    candidates, found = _read(shard)
    rows, rejects, ids = catalogue(shard, candidates, ClassList(classes, shard.labels), images_per_part)
    return rows, rejects + [replace(r, image_id=ids.unique(r.image_id)) for r in found]


def _read(shard: Shard) -> tuple[list[Candidate], list[Reject]]:
    match shard.format:
        case "tar":
            return tar.scan(shard, read_labels=shard.role in LABELLED_ROLES)
        case "parquet":
            return parquet.scan(shard)
        case "list":
            return list(pathlist.candidates(shard)), []
        case _:
            return list(folder.candidates(shard)), []
