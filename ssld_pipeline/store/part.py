"""A part of a table: a Parquet file, and what its name tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ssld_pipeline.store.fingerprints import Fingerprint

NAME = re.compile(
    r"(?P<settings>[0-9a-f]{16})-(?P<inputs>[0-9a-f]{16})-(?P<content>[0-9a-f]{16})(-(?P<bytes>[0-9a-f]{16}))?"
    r"-[0-9a-f]{12}\.parquet"
)


@dataclass(frozen=True)
class Part:
    """A Parquet file of a table, committed or about to be. ``unit``: the values of ``Table.unit``, in its order."""

    unit: tuple[str, ...]
    fingerprint: Fingerprint
    content: str
    file: str
    num_rows: int
    size_bytes: int

    @property
    def name(self) -> str:
        return self.unit[-1]

    @property
    def file_digest(self) -> str | None:
        """Digest of the file's bytes; None where an older program wrote it."""
        return file_digest(self.file)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Part:
        return cls(**{**value, "unit": tuple(value["unit"]), "fingerprint": Fingerprint(**value["fingerprint"])})


def file_digest(name: str) -> str | None:
    """Digest of the bytes of the part with this file name; None where an older program wrote it."""
    match = NAME.fullmatch(name)
    return match["bytes"] if match else None
