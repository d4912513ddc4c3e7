"""The Parquet file of a part: how it is read, written, and sorted before."""

from __future__ import annotations

from bisect import bisect_left
from heapq import heapify, heappop, heappush
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssld_pipeline.contracts import Table
from ssld_pipeline.store import files
from ssld_pipeline.store.damage import MISSING, OTHER_BYTES, DamagedFile, one_line
from ssld_pipeline.store.fingerprints import digest_bytes
from ssld_pipeline.store.part import file_digest

_MOST_PIECES = 50_000


def read_parquet(uri: str) -> pa.Table:
    """The rows of one Parquet file, without its schema metadata. Raises DamagedFile if it is not what was written."""
    try:
        data = files.read_bytes(uri)
    except FileNotFoundError:
        raise DamagedFile(uri, MISSING) from None
    written = file_digest(uri.rsplit("/", 1)[-1])
    if written and digest_bytes(data) != written:
        raise DamagedFile(uri, OTHER_BYTES)
    try:
        return pq.read_table(pa.BufferReader(data)).replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise DamagedFile(uri, f"it is no whole Parquet file ({one_line(error)})") from None


def in_order(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Sorted by ``key``. Rows that come as a few sorted runs, as from sorted parts read by some threads, are merged run
    by run: of 4 million image_ids, sorting takes 4 s and moving the rows 5 s more."""
    pieces = _merged_runs(rows[key[0]]) if rows.num_rows else []
    if pieces is None:
        return rows.combine_chunks().sort_by([(name, "ascending") for name in key])
    return pa.concat_tables([rows.slice(0, 0), *(rows.slice(start, end - start) for start, end in pieces)])


def _merged_runs(column: pa.ChunkedArray) -> list[tuple[int, int]] | None:
    """Pieces [start, end) of rising runs in the order that sorts the values; None for many pieces, or equal values."""
    values = column.combine_chunks()
    values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
    falls = pc.indices_nonzero(pc.greater_equal(values[:-1], values[1:]))
    if len(falls) >= _MOST_PIECES:
        return None
    bounds = [0, *(fall + 1 for fall in falls.to_pylist()), len(values)]
    heads = [(values[start].as_py(), start, end) for start, end in pairwise(bounds)]
    heapify(heads)
    pieces: list[tuple[int, int]] = []
    while heads:
        _, start, end = heappop(heads)
        length = bisect_left(range(start, end), heads[0][0], key=lambda i: values[i].as_py()) if heads else end - start
        if length == 0 or len(pieces) == _MOST_PIECES:
            return None
        pieces.append((start, start + length))
        if start + length < end:
            heappush(heads, (values[start + length].as_py(), start + length, end))
    return pieces


def parquet_bytes(rows: pa.Table, contract: Table) -> bytes:
    """A Parquet file. Floats are split by byte before zstd, so that rounded mantissas cost little; of an image_id,
    which is another in every row or a few, a dictionary would be a second copy."""
    columns = {f.name: f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in rows.schema}
    floats = [columns[f.name] for f in rows.schema if pa.types.is_floating(getattr(f.type, "value_type", f.type))]
    others = [c for c in columns.values() if c not in floats and c != contract.key[0]]
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        compression="zstd",
        compression_level=contract.zstd_level,
        use_dictionary=others,
        use_byte_stream_split=floats or False,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data
