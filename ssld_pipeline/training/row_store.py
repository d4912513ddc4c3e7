"""Files that the training processes of a node make once and map into memory together: rows of images, stored labels.

A store is a folder in a local cache, named by a digest of all that its content depends on. The first process that wants
it builds it under a lock, beside its place, and renames it; the others wait and map it. Mapped pages are the page
cache's, so that they count once a node however many processes read them.

A large store is built by a process of its own: what Arrow and malloc hold on to after reading and sorting 1 GB of rows
would stay in the training process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ssld_pipeline import __version__
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.digests import digest

_FORMAT = 1  # raise it where the same arguments come to give other files
_SMALL_BYTES = 1 << 20  # built in this process: starting another takes 2 s, and leaves no memory behind
_RECORD, _CHECKED, _BUILDING = "record.json", "checked.json", "building-"
Build = Callable[..., None]


@dataclass(frozen=True)
class Store:
    """``folder``: what ``build`` wrote, whole and not to be changed. ``lock``: a file descriptor; while it is open no
    process removes the folder."""

    folder: Path
    lock: int

    def used_by(self, reader: Any) -> None:
        """Keep the store until ``reader``, which maps it, is gone. Where it is removed after that, what is mapped stays
        readable."""
        weakref.finalize(reader, os.close, self.lock)


def open_store(
    cache: str | None,
    build: Build,
    arguments: Mapping[str, Any],
    tables: Mapping[str, pa.Table] | None = None,
    *,
    content: Any = None,
    size_bytes: Callable[[], int],
) -> Store:
    """The store that ``build(folder, **arguments)`` fills, built if it is not there, or damaged.

    ``cache``: local folder; null: one of this user's in the system's temporary directory. ``build``: a function of a
    module, which another process can import; the same arguments give the same files. ``arguments``: JSON. ``tables``:
    written to ``<name>.arrow`` before ``build`` is called; ``content`` stands for them in the store's name.
    ``size_bytes``: about how large it will be, asked only before it is built.

    Stores that nobody has open are removed when another one is built. UserError where the disk is full or the folder
    is another user's; RuntimeError where the process that builds fails.
    """
    folder = _cache_folder(cache)
    known = json.dumps([__version__, _FORMAT, build.__module__, _with_stamps(arguments), content], sort_keys=True)
    name = f"{build.__name__}-{digest(known.encode()).hex()}"
    with _locked(folder / "lock"):
        place = folder / name
        lock = _hold(place)
        if lock is None:
            shutil.rmtree(place, ignore_errors=True)
            with _full_disk_is_a_mistake(folder):
                _build(place, build, arguments, tables or {}, size_bytes())
            _remove_unused(folder, but=place)
            lock = _hold(place)
        if lock is None:
            raise RuntimeError(f"{place} was changed while it was built")
    return Store(place, lock)


def mapped_table(path: Path) -> pa.Table:
    """An Arrow file without copies: one chunk a column where it was written by `write_table`."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def write_table(path: Path, table: pa.Table) -> None:
    """An Arrow file of one record batch; more where a column has over 2 GB of text."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table.combine_chunks(), max_chunksize=max(1, table.num_rows))


def digest_table(table: pa.Table) -> str:
    """Hex digits of the table's columns as they are in memory, without a copy: other chunks may give others."""
    state = hashlib.blake2b(digest_size=16)
    for name, column in zip(table.column_names, table.columns, strict=True):
        for chunk in column.chunks:
            buffers = [b"" if buffer is None else buffer for buffer in chunk.buffers()]
            state.update(f"{name} {chunk.type} {chunk.offset} {len(chunk)} {[len(b) for b in buffers]};".encode())
            for buffer in buffers:
                state.update(buffer)
    return state.hexdigest()


def digest_file(path: Path) -> str:
    """Hex digits of the file's bytes; 1 s a GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _cache_folder(cache: str | None) -> Path:
    base = Path(cache) / "row-store" if cache else Path(tempfile.gettempdir()) / f"ssld-row-store-{os.getuid()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise UserError(f"{base} belongs to another user; set placement.cache to a local folder of your own")
    return base


def _with_stamps(arguments: Mapping[str, Any]) -> Any:
    """With size and time of change of local tables: parts of a table are never changed, other files may be."""
    stamps = []
    for uri in arguments.get("tables", ()):
        with contextlib.suppress(OSError):
            found = Path(uri.removeprefix("file://")).stat()
            stamps.append([uri, found.st_size, found.st_mtime_ns])
    return [arguments, stamps]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The one lock of a cache: it is held while a store is looked for, checked, built or removed."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _full_disk_is_a_mistake(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{folder}: no room for the training's rows and stored labels; free some, or set placement.cache to a "
            f"local folder that has it"
        ) from None


def _hold(place: Path) -> int | None:
    """A descriptor that holds the store; None where it is missing or damaged.

    What nobody has open is compared with its digests, 1 s a GB. What is open was compared by those who opened it first;
    it is again if a file was changed since.
    """
    try:
        lock = os.open(place / _RECORD, os.O_RDONLY)
    except OSError:
        return None
    is_used = False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_used = True
    if not ((is_used and _is_checked(place)) or _is_whole(place)):
        os.close(lock)
        return None
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _is_checked(place: Path) -> bool:
    return (found := _read_json(place / _CHECKED)) is not None and found == _stamps(place)


def _is_whole(place: Path) -> bool:
    record = _read_json(place / _RECORD)
    stamps = _stamps(place)
    if not isinstance(record, dict) or record.keys() != stamps.keys():
        return False
    if any(record[name] != [stamps[name][0], digest_file(place / name)] for name in record):
        return False
    _write_json(place / _CHECKED, stamps)
    return True


def _stamps(place: Path) -> dict[str, list[int]]:
    """Size, times of change and number on disk of each file of content."""
    found = {path.name: path.stat() for path in sorted(place.iterdir()) if path.name not in (_RECORD, _CHECKED)}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in found.items()}


def _build(
    place: Path, build: Build, arguments: Mapping[str, Any], tables: Mapping[str, pa.Table], size_bytes: int
) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=place.parent))
    try:
        for name, table in tables.items():
            write_table(scratch / f"{name}.arrow", table)
        if size_bytes <= _SMALL_BYTES:
            build(scratch, **arguments)
        else:
            _build_elsewhere(scratch, build, arguments)
        contents = sorted(path for path in scratch.iterdir())
        _write_json(scratch / _RECORD, {path.name: [path.stat().st_size, digest_file(path)] for path in contents})
        scratch.rename(place)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _build_elsewhere(folder: Path, build: Build, arguments: Mapping[str, Any]) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    task = json.dumps([build.__module__, build.__name__, str(folder), arguments])
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=task, env=environment, text=True, stderr=subprocess.PIPE, check=False
    )
    if done.returncode == _NO_ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if done.returncode:
        raise RuntimeError(f"{build.__name__} ended with {done.returncode}: {done.stderr[-2000:].strip()}")


def _remove_unused(folder: Path, but: Path) -> None:
    """Stores that no process has open, and what a builder that was killed left."""
    for place in folder.iterdir():
        if place == but or not place.is_dir():
            continue
        if place.name.startswith(_BUILDING) or not _is_used(place):
            shutil.rmtree(place, ignore_errors=True)


def _is_used(place: Path) -> bool:
    try:
        with (place / _RECORD).open("rb") as record:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


_NO_ROOM = 28  # exit code of a builder; as ENOSPC


def _main() -> int:
    """Build what the task on stdin describes."""
    module, name, folder, arguments = json.load(sys.stdin)
    try:
        getattr(importlib.import_module(module), name)(Path(folder), **arguments)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _NO_ROOM
    return 0


if __name__ == "__main__":
    sys.exit(_main())
