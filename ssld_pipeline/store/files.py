"""Bytes at a local path or an fsspec URI, written so that a reader sees all of them or none."""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import uuid
from pathlib import Path
from typing import Any

import fsspec


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
    with fsspec.open(uri, "rb") as file:
        return bytes(file.read())


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
    """None where there is no such file."""
    try:
        return json.loads(read_bytes(uri))
    except FileNotFoundError:
        return None


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


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
