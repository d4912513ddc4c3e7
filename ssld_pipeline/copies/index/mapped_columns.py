"""Names of images that no worker holds in memory: columns of Arrow files, mapped, of which a row at a time is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

DIGEST_BYTES = 16


def write_ids(path: Path, image_ids: Iterable[str]) -> None:
    """An Arrow file of one column, ``image_id``."""
    import pyarrow as pa

    _write(path, pa.table({"image_id": pa.array(image_ids, pa.string())}))


def write_digests(path: Path, owners: Mapping[bytes, str]) -> None:
    """An Arrow file of two columns, ``digest`` and ``image_id``, by digest."""
    import pyarrow as pa

    rows = sorted(owners.items())
    digests = pa.array([digest for digest, _ in rows], pa.binary(DIGEST_BYTES))
    _write(path, pa.table({"digest": digests, "image_id": pa.array([owner for _, owner in rows], pa.string())}))


class MappedIds:
    """``image_id`` of each row of a file that ``write_ids`` wrote."""

    def __init__(self, path: Path) -> None:
        self._ids = _mapped(path)["image_id"]

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: int) -> str:
        return str(self._ids[row].as_py())

    def __iter__(self) -> Iterator[str]:
        return (str(value.as_py()) for value in self._ids)


class MappedDigests:
    """The image that owns a digest, from a file that ``write_digests`` wrote."""

    def __init__(self, path: Path) -> None:
        table = _mapped(path)
        self._ids = table["image_id"]
        # NumPy's byte strings end at trailing zero bytes, and compare as if they were there.
        kind = np.dtype(f"S{DIGEST_BYTES}")
        chunks = table["digest"].chunks
        self._digests = np.frombuffer(chunks[0].buffers()[1], kind, len(table)) if chunks else np.zeros(0, kind)

    def get(self, digest: bytes) -> str | None:
        wanted = np.frombuffer(digest, self._digests.dtype)[0]
        row = int(np.searchsorted(self._digests, wanted))
        return str(self._ids[row].as_py()) if row < len(self._digests) and self._digests[row] == wanted else None


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)


def _mapped(path: Path) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
