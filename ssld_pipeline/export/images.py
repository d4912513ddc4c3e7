"""The manifest as other trainers want it: a list of paths, or the images themselves, packed into shuffled shards."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import BadImage, UserError
from ssld_pipeline.store import files
from ssld_pipeline.store.fingerprints import digest, digest_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.inputs.read import ImageReader
    from ssld_pipeline.store.workspace import Workspace

PACKED_FORMATS = {"webdataset": ".tar", "parquet-images": ".parquet"}
_VERSION = 1  # raise when the same rows come to make other shards
_ROW_GROUP = 100  # images; what a reader of parquet holds at a time
_MAGIC = {b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif"}


@dataclass(frozen=True)
class Packing:
    """A shard ends before the image that would exceed either limit. ``seed``: of the order of images."""

    shard_bytes: int = 256 << 20
    images_per_shard: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class _Sample:
    """One image of a shard; ``data``: its encoded bytes, as they are in the input."""

    row: dict[str, Any]
    data: bytes


def write_paddleclas(workspace: Workspace, out: Path) -> Path:
    """A text file of ``path label`` lines, as PaddleClas' datasets read with their default delimiter.

    UserError for images that are not plain local files, and for paths with white space, which would end the path.
    """
    with workspace.connect("manifest", is_checked=True) as tables:
        for broken, what in (
            ("\"offset\" <> 0 OR lower(uri) LIKE '%.parquet'", "lies packed in a tar or Parquet file"),
            ("contains(uri, '://')", "does not lie on a local disk"),
            (r"regexp_matches(uri, '\s')", "has white space in its path"),
        ):
            found = tables.execute(f"SELECT image_id, uri, count(*) OVER () FROM manifest WHERE {broken} LIMIT 1")
            for image_id, uri, num in found.fetchall():
                raise UserError(
                    f"export manifest --format paddleclas: {num:,} image(s) cannot be named in such a list: the first, "
                    f"{image_id}, {what} ({uri}). Export to webdataset or parquet-images, which hold the images"
                )
        lines = tables.execute("SELECT concat(uri, ' ', class_id) FROM manifest ORDER BY image_id").fetchall()
    files.write_bytes(str(out), "".join(f"{line}\n" for (line,) in lines).encode())
    return out


def pack(
    workspace: Workspace, classes: Sequence[str], out: Path, format: str, packing: Packing
) -> Iterator[Path | str]:
    """Writes the manifest's images into shards below ``out``; yields each shard, and a line about what is not in them.

    ``format``: one of ``PACKED_FORMATS``, whose suffix the shards get.
    The order is a shuffle that ``seed`` alone decides, so that who reads shards one after the other sees the classes
    mixed. A shard appears under its name when it is whole. Run again, shards that would hold the same rows are kept;
    one that lacks an unreadable image is tried again. UserError where of a shard's images none can be read, and for a
    folder with shards of another format.
    """
    from ssld_pipeline.inputs.read import ImageReader

    rows = _shuffled(workspace, packing.seed)
    if not rows.num_rows:
        raise UserError(f"export: {workspace.uri} has no manifest yet; make it with: ssld run CONFIG --until select")
    index, reader = _Index(out), ImageReader()
    bounds = list(_cut(rows["size_bytes"].to_pylist(), packing))
    names = [f"shard-{number:06d}{PACKED_FORMATS[format]}" for number in range(len(bounds))]
    index.refuse_other_format(PACKED_FORMATS[format])
    index.forget_others(names)
    for name, (start, end) in zip(names, bounds, strict=True):
        shard = rows.slice(start, end - start)
        wanted = digest([_VERSION, format, digest([*classes]), start, digest_rows(shard, without=("uri",))])
        if not index.holds(name, wanted):
            samples, unread = _read(shard, start, reader, name)
            data = _tar(samples, classes) if format == "webdataset" else _parquet(samples, classes)
            files.write_bytes(str(out / name), data)
            index.add(name, wanted, len(samples), unread)
        yield out / name
    yield from index.report()


def _shuffled(workspace: Workspace, seed: int) -> pa.Table:
    with workspace.connect("manifest", is_checked=True) as tables:
        query = f"SELECT * EXCLUDE (part) FROM manifest ORDER BY md5('{seed}/' || image_id), image_id"
        return tables.sql(query).to_arrow_table()


def _cut(sizes: Sequence[int], packing: Packing) -> Iterator[tuple[int, int]]:
    """[start, end) of each shard; an image larger than a shard has one to itself."""
    start, held = 0, 0
    for number, size in enumerate(sizes):
        if number > start and (held + size > packing.shard_bytes or number - start == packing.images_per_shard):
            yield start, number
            start, held = number, 0
        held += size
    yield start, len(sizes)


def _read(rows: pa.Table, first: int, reader: ImageReader, name: str) -> tuple[list[_Sample], list[list[str]]]:
    """The samples in the order of ``rows``, and (image_id, reason, detail) of those that cannot be read.

    Read in the order in which they lie, since a step back in a Parquet file costs its row group.
    """
    import pyarrow.compute as pc

    order = pc.sort_indices(rows, [("uri", "ascending"), ("offset", "ascending")])
    records = [{"number": first + i, **row} for i, row in enumerate(rows.to_pylist())]
    found: dict[int, _Sample] = {}
    unread: list[list[str]] = []
    for place, data in zip(order.to_pylist(), reader.read_many(rows.take(order)), strict=True):
        if isinstance(data, BadImage):
            unread.append([records[place]["image_id"], data.reason, data.detail])
        else:
            found[place] = _Sample(records[place], data)
    if not found:
        raise UserError(f"export: none of the {rows.num_rows} images of {name} can be read; the first: {unread[0]}")
    return [found[place] for place in sorted(found)], sorted(unread)


def _tar(samples: Sequence[_Sample], classes: Sequence[str]) -> bytes:
    """A webdataset shard: per image NUMBER.jpg (or its true suffix), NUMBER.cls and NUMBER.json."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            row = sample.row
            about = {k: row[k] for k in ("image_id", "role", "class_id", "score", "rank")}
            about["class"] = classes[row["class_id"]]
            members = (
                (_suffix(sample.data), sample.data),
                ("cls", str(row["class_id"]).encode()),
                ("json", json.dumps(about, ensure_ascii=False).encode()),
            )
            for suffix, data in members:
                member = tarfile.TarInfo(f"{row['number']:09d}.{suffix}")  # no time, no owner: same rows, same bytes
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def _parquet(samples: Sequence[_Sample], classes: Sequence[str]) -> bytes:
    """Columns image (bytes and path, as Hugging Face has it), label, class, image_id, role, score, rank."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "image": {"bytes": sample.data, "path": sample.row["image_id"]},
            "label": sample.row["class_id"],
            "class": classes[sample.row["class_id"]],
            **{k: sample.row[k] for k in ("image_id", "role", "score", "rank")},
        }
        for sample in samples
    ]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [(name, pa.string()) for name in ("class", "image_id", "role")]
    schema = pa.schema([("image", image), ("label", pa.int32()), *texts, ("score", pa.float32()), ("rank", pa.int32())])
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, sink, row_group_size=_ROW_GROUP, compression="none", use_dictionary=["class", "role"])
    return bytes(sink.getvalue().to_pybytes())


def _suffix(data: bytes) -> str:
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), "jpg")


class _Index:
    """``shards.json`` beside the shards: what each of them was made of."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._out, self._uri = out, str(out / "shards.json")
        self._shards: dict[str, dict[str, Any]] = files.read_json(self._uri) or {}

    def holds(self, name: str, wanted: str) -> bool:
        shard, path = self._shards.get(name), self._out / name
        return (
            shard is not None
            and shard["digest"] == wanted
            and not shard["unreadable"]
            and path.is_file()
            and path.stat().st_size == shard["bytes"]
        )

    def add(self, name: str, digest: str, num_images: int, unreadable: list[list[str]]) -> None:
        size = (self._out / name).stat().st_size
        self._shards[name] = {"digest": digest, "images": num_images, "bytes": size, "unreadable": unreadable}
        files.write_json(self._uri, self._shards)

    def refuse_other_format(self, suffix: str) -> None:
        other = next((name for name in self._shards if not name.endswith(suffix)), None)
        if other:
            raise UserError(f"export: {self._out} holds shards of another format ({other}); give another folder")

    def forget_others(self, names: Sequence[str]) -> None:
        """Deletes the shards of an earlier export that this one does not have."""
        for name in sorted(self._shards.keys() - {*names}):
            (self._out / name).unlink(missing_ok=True)
            del self._shards[name]

    def report(self) -> Iterator[str]:
        """One line where images are missing, with the file that lists them."""
        unread = [row for _, shard in sorted(self._shards.items()) for row in shard["unreadable"]]
        path = self._out / "unreadable.csv"
        path.unlink(missing_ok=True)
        if unread:
            text = io.StringIO()
            csv.writer(text).writerows([["image_id", "reason", "detail"], *unread])
            files.write_bytes(str(path), text.getvalue().encode())
            yield f"{len(unread):,} image(s) could not be read and are in no shard: {path}"
