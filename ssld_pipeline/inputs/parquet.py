"""Parquet inputs: a column of encoded images, or Hugging Face's image struct, and a label column where there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssld_pipeline.contracts import Reject, RejectOfMany
from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.candidates import Candidate
from ssld_pipeline.inputs.labels import label_text, number
from ssld_pipeline.inputs.location import filesystem
from ssld_pipeline.inputs.shard import Shard

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes", "content")
LABEL_COLUMNS = ("label", "cls", "class", "class_id", "fine_label")
OTHER_LABEL_COLUMNS = ("labels", "class_name", "target", "category")
"""Read if there is none of the above, in upper or lower case, and no ClassLabel."""
_BATCH_ROWS = 64


class Columns(NamedTuple):
    """``image``: path of the leaf that holds the bytes, such as ``image.bytes``. ``names``: of the classes that the
    file's labels number, where it has some (Hugging Face's ClassLabel)."""

    image: str
    label: str | None
    names: tuple[str, ...] = ()


def open_parquet(uri: str) -> pq.ParquetFile:
    """Raises OSError or pa.ArrowInvalid. Pages are streamed: a row group may hold more than memory does."""
    files, path = filesystem(uri)
    return pq.ParquetFile(files.open(path, "rb"), pre_buffer=False, buffer_size=1 << 20)


def find_columns(schema: pa.Schema) -> Columns | None:
    numbered = {name: names for name, names in class_labels(schema).items() if name in schema.names}
    label = _label_column(schema.names, numbered)
    own = numbered.get(label, ()) if label else ()
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if _is_bytes(kind):
                return Columns(name, label, own)
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return Columns(f"{name}.bytes", label, own)
    return None


def _label_column(names: Sequence[str], numbered: Mapping[str, object]) -> str | None:
    if found := next((name for name in LABEL_COLUMNS if name in names), None):
        return found
    if len(numbered) == 1:
        return next(iter(numbered))
    by_folded = {name.casefold(): name for name in reversed(names)}
    return next((by_folded[name] for name in (*LABEL_COLUMNS, *OTHER_LABEL_COLUMNS) if name in by_folded), None)


def class_labels(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Column -> names of its ClassLabel, from what Hugging Face's datasets write into a file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {str(name): names for name, feature in features.items() if (names := _names(feature))}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _names(feature: Any) -> tuple[str, ...]:
    """Of a ClassLabel, or of one in a sequence."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names(feature[0])
    if not isinstance(feature, dict):
        return ()
    names = feature.get("names")
    if isinstance(names, list) and feature.get("_type", "ClassLabel") == "ClassLabel":
        return tuple(map(str, names))
    return _names(feature.get("feature"))


def schema_of(shard: Shard) -> pa.Schema | None:
    """None for a damaged file, which is a reject of the scan."""
    try:
        with open_parquet(shard.listing["path"][0].as_py()) as file:
            return file.schema_arrow
    except (OSError, pa.ArrowInvalid):
        return None


def require_image_column(shard: Shard) -> None:
    """Raises UserError when the first file of an input shows that its columns are others than ours."""
    uri, schema = shard.listing["path"][0].as_py(), schema_of(shard)
    if schema is not None and find_columns(schema) is None:
        raise UserError(
            f"inputs.{shard.role}: {uri} has no column of images. Expected one of {', '.join(IMAGE_COLUMNS)}, of bytes"
            f" or a struct with the field bytes, got {', '.join(f'{f.name} ({f.type})' for f in schema)}."
            " Rename the column"
        )


def image_batches(file: pq.ParquetFile, columns: list[str], first_group: int = 0) -> Iterator[pa.RecordBatch]:
    """Batches of at most 64 rows, in order, none across row groups: those before a damaged one stay whole."""
    for group in range(first_group, file.num_row_groups):
        yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=columns, row_groups=[group], use_threads=False)


def image_array(batch: pa.RecordBatch, columns: Columns) -> pa.Array:
    name, _, inner = columns.image.partition(".")
    return pc.struct_field(batch.column(name), inner) if inner else batch.column(name)


def scan(shard: Shard) -> tuple[list[Candidate], list[Reject]]:
    """Candidates in the order of the rows; a row without bytes has size 0, which the stage that reads it rejects."""
    listed = shard.listing.to_pylist()[0]
    candidates: list[Candidate] = []
    num_rows = 0
    try:
        with open_parquet(listed["path"]) as file:
            num_rows = file.metadata.num_rows
            columns = find_columns(file.schema_arrow)
            if columns is None:
                return [], [Reject(shard.name, "unreadable", "no column of images")]
            if shard.labels in ("numbers", "numbers_from_1"):
                columns = columns._replace(names=())
            for size, labels in _rows(file, columns):
                row = len(candidates)
                candidates.append(Candidate(f"{shard.name}/{row}", listed["path"], row, size, listed["stamp"], labels))
    except pa.ArrowInvalid as error:
        return candidates, [
            RejectOfMany(shard.name, "truncated_archive", str(error), max(1, num_rows - len(candidates)))
        ]
    except OSError as error:
        reason = "unreadable" if error.errno else "truncated_archive"  # Arrow reports broken pages as bare OSError
        return candidates, [RejectOfMany(shard.name, reason, str(error), max(1, num_rows - len(candidates)))]
    return candidates, []


def _rows(file: pq.ParquetFile, columns: Columns) -> Iterator[tuple[int, tuple[str, ...]]]:
    wanted = [columns.image, *([columns.label] if columns.label else [])]
    for batch in image_batches(file, wanted):
        sizes = pc.fill_null(pc.binary_length(image_array(batch, columns)), 0).to_pylist()
        labels = batch.column(columns.label).to_pylist() if columns.label else [None] * len(sizes)
        for size, label in zip(sizes, labels, strict=True):
            text = _label(label, columns.names)
            yield size, () if text is None else (text,)


def _label(value: Any, names: tuple[str, ...]) -> str | None:
    text = label_text(value)
    place = number(text) if text else None
    return text if place is None or place >= len(names) else names[place]


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
