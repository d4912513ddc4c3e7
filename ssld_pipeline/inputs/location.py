"""Where bytes lie: a local path, plain and absolute, or any fsspec URI, which keeps its protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ssld_pipeline.errors import UserError


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def filesystem(uri: str) -> tuple[Any, str]:
    """(fsspec filesystem, path on it); UserError for a protocol that is unknown or not installed.

    ``::`` in a local path means nothing, unlike in fsspec's own chained URLs.
    """
    if is_local(uri):
        return LocalFileSystem(), str(Path(uri.removeprefix("file://")).absolute())
    try:
        found, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UserError(f"{uri} cannot be opened: {error}") from None
    return found, path.rstrip("/")


def full_uri(files: Any, path: str) -> str:
    """The URI that ``filesystem`` takes apart into ``files`` and ``path``."""
    return path if isinstance(files, LocalFileSystem) else str(files.unstrip_protocol(path))


def join(folder: str, relative: str) -> str:
    return f"{folder.rstrip('/')}/{relative}"
