"""The order in which images are read best: file by file, and forwards within each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def in_reading_order(rows: pa.Table) -> list[dict[str, Any]]:
    """Catalog rows, file by file and forwards within each, whatever the order of ``rows``."""
    records = rows.select(["image_id", "uri", "offset", "size_bytes"]).sort_by("image_id").to_pylist()
    first: dict[str, int] = {}
    for number, record in enumerate(records):
        first.setdefault(record["uri"], number)
    return sorted(records, key=lambda record: (first[record["uri"]], record["offset"], record["image_id"]))
