"""Files below a folder, with sizes and stamps, on any file system; what cannot be read becomes a reject."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ssld_pipeline.contracts import Reject, RejectOfMany
from ssld_pipeline.inputs.location import filesystem, full_uri, is_local, join
from ssld_pipeline.inputs.names import escaped, is_utf8, printable
from ssld_pipeline.inputs.shard import Listed

_STAMP_KEYS = ("ETag", "etag", "generation", "LastModified", "last_modified", "updated", "mtime", "modified", "created")


class Entry(NamedTuple):
    """One name in a folder. ``problem``: why a file cannot be read."""

    name: str
    is_folder: bool = False
    size_bytes: int = 0
    stamp: str = ""
    problem: str = ""


@dataclass
class Found:
    """Files and rejects below a folder; the rejects' image_ids are still relative to the input."""

    files: list[Listed] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def walk(root: str, relative: str = "") -> Found:
    """Everything below ``<root>/<relative>``, sorted by name. Links are followed, hidden folders passed over.

    OSError when the folder itself cannot be listed and is the root; below that it is a reject.
    """
    found = Found()
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(relative, ())]
    while pending:
        folder, ancestors = pending.pop()
        try:
            ancestors = _with_identity(join(root, folder) if folder else root, ancestors)
            files, folders = enter(root, folder)
        except OSError as error:
            if not folder:
                raise
            found.rejects.append(_cannot(folder, "folder cannot be listed", error))
            continue
        found.files += files.files
        found.rejects += files.rejects
        pending += [(name, ancestors) for name in folders]
    found.files.sort(key=lambda f: f.relative)
    return found


def enter(root: str, folder: str) -> tuple[Found, list[str]]:
    """The files of one folder, and its sub-folders relative to ``root``. Raises OSError."""
    found, folders = Found(), []
    for entry in sorted(list_folder(join(root, folder) if folder else root)):
        relative = join(folder, entry.name) if folder else entry.name
        if entry.is_folder:
            folders += [] if entry.name.startswith(".") else [relative]
        else:
            _take(found, root, relative, entry)
    return found, folders


def list_folder(uri: str) -> Iterator[Entry]:
    """The names in one folder. Raises OSError."""
    if is_local(uri):
        return _list_local(uri)
    files, path = filesystem(uri)
    return (_remote_entry(info) for info in files.ls(path, detail=True) if info["name"].strip("/") != path.strip("/"))


def look_up(uri: str) -> Entry:
    """The entry of one file or folder. Raises OSError."""
    if is_local(uri):
        return _local_entry(uri.rsplit("/", 1)[-1], os.stat(uri))  # noqa: PTH116  (keeps undecodable names)
    files, path = filesystem(uri)
    return _remote_entry(files.info(path))


def match(uri: str) -> Found:
    """What a glob matches, sorted; ``relative`` is the path below the part of the glob that has no wildcard."""
    files, pattern = filesystem(uri)
    root = full_uri(files, glob_root(pattern))
    found = Found()
    for path in sorted(full_uri(files, path) for path in files.glob(pattern)):
        entry = look_up(path)
        if not entry.is_folder:
            _take(found, root, path[len(root) :].lstrip("/"), entry)
    return found


def glob_root(pattern: str) -> str:
    wild = min(pattern.find(c) for c in "*?[" if c in pattern)
    return pattern[:wild].rpartition("/")[0]


def _take(found: Found, root: str, relative: str, entry: Entry) -> None:
    if not is_utf8(relative):
        found.rejects.append(Reject(printable(relative), "undecodable_name", escaped(relative)))
    elif entry.problem:
        found.rejects.append(Reject(relative, "unreadable", entry.problem))
    else:
        found.files.append(Listed(join(root, relative), relative, entry.size_bytes, entry.stamp))


def _list_local(path: str) -> Iterator[Entry]:
    # os.scandir rather than fsspec: 14 million loose files are listed in a third of the time.
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                yield _local_entry(entry.name, entry.stat())
            except OSError as error:
                yield Entry(entry.name, problem=error.strerror or str(error))


def _local_entry(name: str, status: os.stat_result) -> Entry:
    if stat.S_ISDIR(status.st_mode):
        return Entry(name, is_folder=True)
    if not stat.S_ISREG(status.st_mode):
        return Entry(name, problem="neither a file nor a folder")
    return Entry(name, False, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def _remote_entry(info: dict[str, Any]) -> Entry:
    name, size = info["name"].rstrip("/").rsplit("/", 1)[-1], int(info.get("size") or 0)
    version = next((info[key] for key in _STAMP_KEYS if info.get(key)), "")
    return Entry(name, info["type"] == "directory", size, f"{size}-{version}")


def _with_identity(path: str, ancestors: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    if not is_local(path):
        return ancestors
    status = os.stat(path)  # noqa: PTH116
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        raise OSError("a link to a folder that holds it")
    return (*ancestors, identity)


def _cannot(folder: str, what: str, error: OSError) -> Reject:
    return RejectOfMany(printable(folder), "unreadable", f"{what}: {error.strerror or error}")
