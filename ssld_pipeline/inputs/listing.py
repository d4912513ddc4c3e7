"""The shards of an input, found without opening one image."""

from __future__ import annotations

from dataclasses import replace

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs import archives, folder, parquet, pathlist
from ssld_pipeline.inputs.location import filesystem, full_uri
from ssld_pipeline.inputs.names import Ids
from ssld_pipeline.inputs.shard import Shard as Shard
from ssld_pipeline.inputs.shard import Source
from ssld_pipeline.inputs.walk import glob_root, list_folder, look_up

_EXPECTED = {
    "folder": "class folders of images, or a folder of images",
    "tar": "a .tar, a folder of them or a glob",
    "parquet": "a .parquet file, a folder of them or a glob",
    "list": "a text file of 'path label' lines",
}


def list_shards(name: str, role: str, uri: str, format: str, images_per_part: int) -> tuple[list[Shard], list[Reject]]:
    """The input's shards in the order of their names, and what could not be listed (image_ids complete).

    ``name``: the input's, the first segment of every image_id. Raises UserError when the input is missing,
    unreadable or empty.
    """
    try:
        uri = _absolute(uri)
        source = Source(name, role, format, _root(uri, format))
        shards, rejects = _list(source, uri, images_per_part)
    except OSError as error:
        raise UserError(
            f"inputs.{role}: {uri} cannot be read: {error.strerror or error}. Expected {_EXPECTED[format]};"
            " correct the uri, or the permissions"
        ) from None
    if not shards:
        first = f"the first: {rejects[0].image_id}: {rejects[0].reason} ({rejects[0].detail})" if rejects else ""
        got = f"{len(rejects)} unusable entries, {first}" if rejects else "none"
        raise UserError(
            f"inputs.{role}: {uri} holds nothing to read. Expected {_EXPECTED[format]} (format: {format}), got {got}. "
            "Correct the uri or the format"
        )
    ids = Ids()
    return shards, [replace(r, image_id=ids.unique(f"{name}/{r.image_id}")) for r in rejects]


def class_folders(uri: str) -> tuple[str, ...]:
    """Names of the class folders of a folder input, sorted, the empty ones included. Raises OSError."""
    return tuple(sorted(e.name for e in list_folder(_absolute(uri)) if e.is_folder and not e.name.startswith(".")))


def _list(source: Source, uri: str, images_per_part: int) -> tuple[list[Shard], list[Reject]]:
    if source.format == "folder":
        return folder.list_shards(source, images_per_part)
    if source.format == "list":
        return pathlist.list_shards(source, uri, images_per_part)
    shards, rejects = archives.list_shards(source, uri, f".{source.format}")
    if source.format == "parquet" and shards:
        parquet.require_image_column(shards[0])
    return shards, rejects


def _absolute(uri: str) -> str:
    return full_uri(*filesystem(uri))


def _root(uri: str, format: str) -> str:
    """The folder that the input's relative names start at. Raises OSError when there is none."""
    if format in ("tar", "parquet") and archives.is_glob(uri):
        files, pattern = filesystem(uri)
        return full_uri(files, glob_root(pattern))
    entry = look_up(uri)
    if entry.is_folder != (format == "folder") and format in ("folder", "list"):
        raise OSError("it is a file" if format == "folder" else "it is a folder")
    return uri if entry.is_folder else uri.rpartition("/")[0]
