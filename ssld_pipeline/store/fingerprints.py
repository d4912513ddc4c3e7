"""Identity of a computation: what went in, as digests, with the payload kept so that a change can be explained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

NUM_HEX = 16


def digest(value: Any) -> str:
    """16 hex digits of the canonical JSON of ``value``; TypeError for what has no stable bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=NUM_HEX // 2).hexdigest()


def digest_bytes(data: bytes) -> str:
    """16 hex digits, equal to ``digest_file`` of a file with these bytes."""
    return hashlib.blake2b(data, digest_size=NUM_HEX // 2).hexdigest()


def digest_file(uri: str) -> str:
    """16 hex digits of the bytes at ``uri``."""
    state = hashlib.blake2b(digest_size=NUM_HEX // 2)
    with fsspec.open(uri, "rb") as file:
        while block := file.read(16 << 20):
            state.update(block)
    return state.hexdigest()


@dataclass(frozen=True)
class Fingerprint:
    """``settings``: stage, version, config fields, side inputs. ``inputs``: the rows or files of this part."""

    settings: str
    inputs: str

    @classmethod
    def of(cls, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> Fingerprint:
        return cls(digest(settings), digest(inputs))

    def __str__(self) -> str:
        return f"{self.settings}-{self.inputs}"


def explain_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One ``field: old -> new`` for each leaf that differs, in the order of names."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    absent = object()
    lines = []
    for name in sorted({*before, *after}):
        was, now = before.get(name, absent), after.get(name, absent)
        if was != now:
            lines.append(f"{name}: {_show(was, absent)} -> {_show(now, absent)}")
    return lines


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _show(value: Any, absent: object) -> str:
    return "absent" if value is absent else json.dumps(value)


def digest_rows(rows: pa.Table, without: Iterable[str] = ()) -> str:
    """16 hex digits of the values of a table, column by column, in the order of its rows.

    Independent of chunking, of Parquet encoding and of the Arrow version. ``without`` names columns to leave out.
    """
    state = hashlib.blake2b(digest_size=NUM_HEX // 2)
    skipped = set(without)
    for name in rows.column_names:
        if name not in skipped:
            state.update(f"{name}:{rows.schema.field(name).type}:{rows.num_rows};".encode())
            column = rows[name].combine_chunks()
            _digest_column(state, pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column)
    return state.hexdigest()


def _characters(strings: pa.StringArray | pa.BinaryArray) -> memoryview:
    """The bytes of all strings, one after the other, without a copy."""
    if len(strings) == 0:
        return memoryview(b"")
    _, offsets, characters = strings.buffers()
    ends = memoryview(offsets).cast("i")
    first, last = ends[strings.offset], ends[strings.offset + len(strings)]
    return memoryview(characters or b"")[first:last]


def _digest_column(state: hashlib.blake2b, column: pa.Array) -> None:
    state.update(pc.is_null(column).to_numpy(zero_copy_only=False).tobytes())
    kind = column.type
    if pa.types.is_list(kind):
        state.update(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).tobytes())
        _digest_column(state, column.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        state.update(pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).tobytes())
        state.update(_characters(column.drop_null()))
    elif pa.types.is_boolean(kind):
        state.update(pc.fill_null(column, False).to_numpy(zero_copy_only=False).tobytes())
    else:
        state.update(pc.fill_null(column, 0).to_numpy(zero_copy_only=False).tobytes())
