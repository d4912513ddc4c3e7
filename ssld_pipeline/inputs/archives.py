"""Inputs that are packed files: the tar or Parquet files of a folder, of a glob, or a single one."""

from __future__ import annotations

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.location import filesystem
from ssld_pipeline.inputs.names import IMAGE_SUFFIXES, has_suffix, stem
from ssld_pipeline.inputs.shard import Listed, Shard, Source
from ssld_pipeline.inputs.walk import Found, look_up, match, walk

COMPRESSED_TARS = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4", ".tar.lzma"),
    ".tar.z",
)
ARCHIVES = (".tar", *COMPRESSED_TARS, ".zip", ".7z", ".rar", ".parquet")


def list_shards(source: Source, uri: str, suffix: str) -> tuple[list[Shard], list[Reject]]:
    """One shard per file, called by its path within the input. Raises OSError when the root cannot be listed."""
    found = _find(source, uri)
    compressed = [f.relative for f in found.files if has_suffix(f.relative, *COMPRESSED_TARS)]
    if suffix == ".tar" and compressed:
        raise UserError(
            f"inputs.{source.role}: {uri} holds {compressed[0]} ({len(compressed)} compressed in all). Images are read"
            " at an offset within their tar, which a compressed one does not allow: unpack it to a plain .tar"
        )
    wanted = [f for f in found.files if has_suffix(f.relative, suffix)]
    shards = [Shard.of(source, f.relative, [f]) for f in wanted]
    return shards, found.rejects + _of_other_formats(source, found.files, wanted)


def _of_other_formats(source: Source, files: list[Listed], shards: list[Listed]) -> list[Reject]:
    """Loose images and other archives in the folders of shards. Not what belongs to a shard: img2dataset writes
    00000.parquet, the metadata, for 00000.tar. Other folders may be other inputs."""
    names, own = {f.relative for f in shards}, {stem(f.relative) for f in shards}
    folders = {name.rpartition("/")[0] for name in names}
    found = [
        f.relative
        for f in files
        if has_suffix(f.relative, *ARCHIVES, *IMAGE_SUFFIXES)
        and f.relative not in names
        and stem(f.relative) not in own
        and f.relative.rpartition("/")[0] in folders
        and not f.relative.rpartition("/")[2].startswith(".")
    ]
    why = f"the input has format: {source.format}, which does not read it: name it as another input"
    return [Reject(name, "other_format", why) for name in found]


def _find(source: Source, uri: str) -> Found:
    if is_glob(uri):
        return match(uri)
    entry = look_up(uri)
    return walk(source.root) if entry.is_folder else Found([Listed(uri, entry.name, entry.size_bytes, entry.stamp)])


def is_glob(uri: str) -> bool:
    files, path = filesystem(uri)
    return any(c in path for c in "*?[") and not files.exists(path)
