"""Bytes at a local path or an fsspec URI, written so that a reader sees all of them or none."""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from ssld_pipeline.sealed import seal, unseal
from ssld_pipeline.store.damage import REMOVE_AND_RUN, DamagedFile


class Stamp(NamedTuple):
    """``changed``: time of the last change, or an object store's tag of the bytes; equal as long as they are."""

    size_bytes: int
    changed: str


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def join(uri: str, *names: str) -> str:
    return posixpath.join(uri, *names)


def exists(uri: str) -> bool:
    if is_local(uri):
        return local_path(uri).exists()
    filesystem, path = fsspec.core.url_to_fs(uri)
    return bool(filesystem.exists(path))


def read_bytes(uri: str) -> bytes:
    if is_local(uri):
        return local_path(uri).read_bytes()
    filesystem, path = fsspec.core.url_to_fs(uri)
    return bytes(filesystem.cat_file(path))  # opening it would trust a listing that may be old for its size


def write_bytes(uri: str, data: bytes) -> None:
    """Local: temporary name, flushed to disk, renamed. Object stores make a whole object visible at once themselves."""
    if not is_local(uri):
        with fsspec.open(uri, "wb") as file:
            file.write(data)
        return
    path = local_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(uri: str) -> Any:
    """None where there is no such file. Raises DamagedFile if it holds no JSON."""
    try:
        return json.loads(read_bytes(uri))
    except FileNotFoundError:
        return None
    except ValueError as error:
        heal = "Remove it and give the same command again"
        raise DamagedFile(uri, f"it holds no whole JSON ({error})", heal) from None


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_sealed(uri: str, heal: str = REMOVE_AND_RUN) -> dict[str, Any] | None:
    """What ``write_sealed`` wrote; None where there is no such file. Raises DamagedFile if it was changed or cut."""
    try:
        return unseal(json.loads(read_bytes(uri)))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedFile(uri, str(error), heal) from None


def write_sealed(uri: str, value: Mapping[str, Any]) -> None:
    write_json(uri, seal(value))


def copy(source: str, target: str) -> None:
    """A local target is renamed into place: whoever finds it finds all of it."""
    if not is_local(target):
        with fsspec.open(source, "rb") as reader, fsspec.open(target, "wb") as writer:
            shutil.copyfileobj(reader, writer, 16 << 20)
        return
    path = local_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with fsspec.open(source, "rb") as reader, temporary.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 16 << 20)
    temporary.replace(path)


def stamp(uri: str) -> Stamp | None:
    """None where there is no such file."""
    if is_local(uri):
        try:
            status = local_path(uri).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stamp(status.st_size, str(status.st_mtime_ns))
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.invalidate_cache()
    try:
        return _remote_stamp(filesystem.info(path))
    except FileNotFoundError:
        return None


def changed_at(uri: str) -> float | None:
    """When a file was changed last, in seconds since 1970; None where there is no such file, or its store does not
    tell."""
    if is_local(uri):
        path = local_path(uri)
        return path.stat().st_mtime if path.exists() else None
    filesystem, path = fsspec.core.url_to_fs(uri)
    try:
        return float(filesystem.modified(path).timestamp())
    except (FileNotFoundError, NotImplementedError):
        return None


def stamps(folder: str) -> dict[str, Stamp]:
    """Of the files below ``folder``, by path relative to it; empty where there is no folder. One listing, no reading:
    20,000 files take 0.1 s on a local disk."""
    if is_local(folder):
        return dict(_walk(str(local_path(folder)), ""))
    filesystem, path = fsspec.core.url_to_fs(folder)
    filesystem.invalidate_cache()
    if not filesystem.exists(path):
        return {}
    found = filesystem.find(path, detail=True)
    return {posixpath.relpath(name, path): _remote_stamp(info) for name, info in found.items()}


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, Stamp]]:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                status = entry.stat()
                yield prefix + entry.name, Stamp(status.st_size, str(status.st_mtime_ns))


def _remote_stamp(info: Mapping[str, Any]) -> Stamp:
    changed = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("created")
    return Stamp(int(info.get("size") or 0), str(changed))


def list_files(folder: str) -> list[str]:
    """Paths below ``folder``, relative to it, sorted; empty where there is no folder."""
    if is_local(folder):
        root = local_path(folder)
        return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    filesystem, path = fsspec.core.url_to_fs(folder)
    if not filesystem.exists(path):
        return []
    return sorted(posixpath.relpath(f, path) for f in filesystem.find(path))


def remove(uri: str) -> None:
    """Remove a file or a folder with everything in it; nothing happens where there is none."""
    if is_local(uri):
        path = local_path(uri)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    filesystem, path = fsspec.core.url_to_fs(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
