"""The encoded bytes of catalogued images, one by one or read ahead by threads."""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import TypeVar

import pyarrow as pa

from ssld_pipeline.errors import BadImage
from ssld_pipeline.inputs.location import filesystem, is_local
from ssld_pipeline.inputs.names import has_suffix
from ssld_pipeline.inputs.parquet import find_columns, image_array, image_batches, open_parquet
from ssld_pipeline.kernels.ahead import ahead

File = TypeVar("File")
Address = tuple[str, int, int]

_OPEN_TARS = 32
_OPEN_PARQUETS = 4
_RECENT_BATCHES = 8
_PAUSE_S = 1.0  # before what failed is read once more
_LASTING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class ImageReader:
    """Reads images by their address in ``catalog``; threads may share it.

    Local tars stay open, the least recently used is closed; a Parquet file is read forwards, so that rows in ascending
    order cost one pass and a step back costs its row group.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._tars: OrderedDict[str, _OpenFile] = OrderedDict()
        self._parquets: OrderedDict[str, _OpenParquet] = OrderedDict()

    def __reduce__(self) -> tuple[type[ImageReader], tuple[()]]:
        """Sent to another process, it opens its own files there."""
        return ImageReader, ()

    def read(self, uri: str, offset: int, size_bytes: int) -> bytes:
        """The encoded image; raises BadImage: unreadable, empty_file, truncated_archive.

        What may pass, such as a stale mount or a lost connection, is tried once more.
        """
        if size_bytes == 0:
            raise BadImage("empty_file")
        try:
            try:
                return self._read(uri, offset, size_bytes)
            except OSError as error:
                if isinstance(error, _LASTING):
                    raise
            time.sleep(_PAUSE_S)
            self._forget(uri)
            return self._read(uri, offset, size_bytes)
        except pa.ArrowInvalid as error:
            raise BadImage("truncated_archive", str(error)) from None
        except OSError as error:
            raise BadImage("unreadable", error.strerror or str(error)) from None

    def _read(self, uri: str, offset: int, size_bytes: int) -> bytes:
        if has_suffix(uri, ".parquet"):
            return self._parquet(uri).row(offset)
        data = self._read_range(uri, offset, size_bytes)
        if len(data) != size_bytes:
            raise BadImage("truncated_archive", f"expected {size_bytes} bytes at {offset}, got {len(data)}")
        return data

    def read_many(self, rows: pa.Table, num_threads: int = 4) -> Iterator[bytes | BadImage]:
        """The images of ``rows`` (columns uri, offset, size_bytes) in their order, read ahead by threads."""
        return ahead(self._read_or_reject, addresses(rows), num_threads)

    def _read_or_reject(self, address: Address) -> bytes | BadImage:
        try:
            return self.read(*address)
        except BadImage as bad:
            return bad

    def _read_range(self, uri: str, offset: int, size_bytes: int) -> bytes:
        if not is_local(uri):
            files, path = filesystem(uri)
            try:
                return bytes(files.cat_file(path, start=offset, end=offset + size_bytes))
            except Exception as error:
                # Clients of object stores raise classes of their own when a connection fails; a bug is a built-in one.
                if type(error).__module__ == "builtins":
                    raise
                raise OSError(f"{type(error).__name__}: {error}") from error
        file = self._tar(uri) if has_suffix(uri, ".tar") else _OpenFile(uri)
        return file.read(offset, size_bytes)

    def _forget(self, uri: str) -> None:
        """A handle to what was mounted anew stays stale."""
        with self._lock:
            self._tars.pop(uri, None)
            self._parquets.pop(uri, None)

    def _tar(self, path: str) -> _OpenFile:
        with self._lock:
            return _recent(self._tars, path, _OpenFile, _OPEN_TARS)

    def _parquet(self, uri: str) -> _OpenParquet:
        with self._lock:
            return _recent(self._parquets, uri, _OpenParquet, _OPEN_PARQUETS)


def addresses(rows: pa.Table) -> Iterator[Address]:
    return zip(*(rows[name].to_pylist() for name in ("uri", "offset", "size_bytes")), strict=True)


class _OpenFile:
    """A descriptor that closes with its last user, so that no thread reads from one that another has evicted."""

    def __init__(self, path: str) -> None:
        self._descriptor = -1
        self._descriptor = os.open(Path(path.removeprefix("file://")), os.O_RDONLY)

    def read(self, offset: int, size_bytes: int) -> bytes:
        return os.pread(self._descriptor, size_bytes, offset)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class _OpenParquet:
    """Walks forwards through a Parquet file; keeps the last batches for threads that come a little out of order."""

    def __init__(self, uri: str) -> None:
        self._lock = Lock()
        self._file = open_parquet(uri)
        columns = find_columns(self._file.schema_arrow)
        if columns is None:
            raise OSError("no column of images")
        self._columns = columns
        self._next_row = -1  # not started
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._recent: deque[tuple[int, pa.Array]] = deque(maxlen=_RECENT_BATCHES)

    def row(self, number: int) -> bytes:
        with self._lock:
            value = self._find(number)
        if not value:
            raise BadImage("empty_file")
        return value

    def _find(self, number: int) -> bytes | None:
        for start, images in self._recent:
            if start <= number < start + len(images):
                return _bytes(images[number - start])
        group, first = self._group_of(number)
        if not first <= self._next_row <= number:
            self._start(group, first)
        for batch in self._batches:
            start, images = self._next_row, image_array(batch, self._columns)
            self._next_row += len(images)
            self._recent.append((start, images))
            if number < self._next_row:
                return _bytes(images[number - start])
        raise BadImage("truncated_archive", f"no row {number}")

    def _start(self, group: int, first_row: int) -> None:
        self._batches, self._next_row = image_batches(self._file, [self._columns.image], group), first_row

    def _group_of(self, number: int) -> tuple[int, int]:
        first = 0
        for group in range(self._file.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            if number < first + num_rows:
                return group, first
            first += num_rows
        raise BadImage("truncated_archive", f"no row {number}")


def _bytes(value: pa.Scalar) -> bytes | None:
    return None if value.as_py() is None else bytes(value.as_py())


def _recent(files: OrderedDict[str, File], key: str, open_file: Callable[[str], File], limit: int) -> File:
    """The open file of this name, opened if need be; the least recently used goes when there are too many."""
    if key not in files:
        files[key] = open_file(key)
        if len(files) > limit:
            files.popitem(last=False)
    files.move_to_end(key)
    return files[key]
