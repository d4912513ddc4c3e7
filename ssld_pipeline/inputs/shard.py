"""A shard: one piece of an input as it was delivered (a tar, a Parquet file, a slice of a folder or of a list)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

_METADATA_KEY = b"ssld_pipeline.shard"
_DESCRIBED = ("input_name", "role", "format", "name", "root", "digest", "labels")
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("relative", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("stamp", pa.string(), nullable=False),
        pa.field("label", pa.string()),
    ]
)


class Listed(NamedTuple):
    """One file as a listing shows it. ``path``: full URI. ``relative``: within the input. ``label``: of list files."""

    path: str
    relative: str
    size_bytes: int
    stamp: str
    label: str | None = None


@dataclass(frozen=True)
class Source:
    """An input of the config. ``root``: absolute URI of the folder its relative names start at."""

    name: str
    role: str
    format: str
    root: str


@dataclass(frozen=True)
class Shard:
    """``name`` begins with the input's name and does not depend on where the input lies; neither does ``digest``.

    ``listing`` has the columns path (full URI), relative (path within the input), size_bytes, stamp (version of the
    file) and label (null but for list inputs).

    ``labels``: how labels mean classes. auto: by name; where they are written (no names of folders), else by number
    from 0. numbers, numbers_from_1: by number, names of folders too, else by name. archives: as auto, and a tar's name
    that is no class counts as a label, since others are. none: not at all.
    """

    input_name: str
    role: str
    format: str
    name: str
    root: str
    digest: str
    listing: pa.Table = field(compare=False, repr=False)
    labels: str = "auto"

    @classmethod
    def of(cls, source: Source, name: str, files: Iterable[Listed]) -> Shard:
        columns = list(zip(*files, strict=True))
        listing = pa.table([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)
        return cls(
            source.name,
            source.role,
            source.format,
            f"{source.name}/{name}",
            source.root,
            _digest(source, listing),
            listing,
        )

    def to_table(self) -> pa.Table:
        """The listing; the other fields travel in the schema's metadata."""
        described = {name: getattr(self, name) for name in _DESCRIBED}
        return self.listing.replace_schema_metadata({_METADATA_KEY: json.dumps(described).encode()})

    @classmethod
    def from_table(cls, table: pa.Table) -> Shard:
        described = json.loads(table.schema.metadata[_METADATA_KEY])
        return cls(**described, listing=table.replace_schema_metadata(None))

    def part(self, number: int) -> str:
        return f"{self.name}#{number}"


def _digest(source: Source, listing: pa.Table) -> str:
    """Of what the catalog's rows follow from, but not of where the input lies."""
    columns = [listing[name].to_pylist() for name in ("relative", "size_bytes", "stamp", "label")]
    return hashlib.sha256(json.dumps([source.name, source.role, source.format, columns]).encode()).hexdigest()
