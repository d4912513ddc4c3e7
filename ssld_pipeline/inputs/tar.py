"""Tar inputs, plain or webdataset: member headers only, so that a tar is catalogued without reading its images."""

from __future__ import annotations

import json
import posixpath
import tarfile
from typing import IO, NamedTuple

from ssld_pipeline.contracts import Reject
from ssld_pipeline.inputs.candidates import Candidate
from ssld_pipeline.inputs.folder import no_image_by_name
from ssld_pipeline.inputs.labels import label_text
from ssld_pipeline.inputs.location import filesystem
from ssld_pipeline.inputs.names import escaped, is_safe, is_utf8, printable, sort_out, stem, webdataset_key
from ssld_pipeline.inputs.shard import Shard

_READ_AHEAD_BYTES = 64 * 1024
_MAX_LABEL_BYTES = 1024 * 1024
_LABEL_KEYS = ("label", "cls", "class")


class Member(NamedTuple):
    name: str
    offset: int
    size_bytes: int


class Contents:
    """What a tar's headers tell. ``rejects``: image_ids are member names; ``damage``: why reading ended early."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.labels: dict[str, str] = {}
        self.rejects: list[Reject] = []
        self.damage = ""


def scan(shard: Shard, read_labels: bool) -> tuple[list[Candidate], list[Reject]]:
    """Candidates in the order of the archive. Rejects: complete image_ids, not made unique yet."""
    listed = shard.listing.to_pylist()[0]
    contents = Contents()
    files, path = filesystem(listed["path"])
    try:
        with files.open(path, "rb", block_size=_READ_AHEAD_BYTES) as stream:
            read_contents(stream, listed["size_bytes"], contents, read_labels)
    except OSError as error:
        return [], [Reject(shard.name, "unreadable", error.strerror or str(error))]
    names, doubtful = sort_out(m.name for m in contents.members)
    wanted = set(names)
    fallback = posixpath.basename(stem(listed["relative"]))
    candidates = [
        Candidate(
            f"{shard.name}/{m.name}",
            listed["path"],
            m.offset,
            m.size_bytes,
            listed["stamp"],
            *_labels(m.name, contents.labels, fallback),
        )
        for m in contents.members
        if m.name in wanted
    ]
    rejects = contents.rejects + [Reject(n, "not_an_image", no_image_by_name(n)) for n in doubtful]
    complete = [Reject(f"{shard.name}/{r.image_id}", r.reason, r.detail) for r in rejects]
    if contents.damage:
        complete.append(Reject(shard.name, "truncated_archive", contents.damage))
    return candidates, complete


def read_contents(stream: IO[bytes], size_bytes: int, contents: Contents, read_labels: bool) -> None:
    """Fill ``contents`` up to the archive's end or damage. Raises OSError when the stream cannot be read."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            while (member := archive.next()) is not None:
                if member.size < 0 or member.offset_data + member.size > size_bytes:
                    contents.damage = f"the archive ends within {printable(member.name)}"
                    return
                _take(archive, member, contents, read_labels)
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it saw
            contents.damage = _check_end(stream, archive.offset)
    except (tarfile.TarError, ValueError) as error:  # ValueError: unreadable numbers in an extended header
        contents.damage = str(error)


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, contents: Contents, read_labels: bool) -> None:
    if not member.isreg() or member.issparse():
        return
    name = posixpath.normpath(member.name)
    if not is_utf8(name):
        contents.rejects.append(Reject(printable(name), "undecodable_name", escaped(name)))
    elif not is_safe(member.name):
        contents.rejects.append(Reject(name.lstrip("/"), "unsafe_name", member.name))
    else:
        contents.members.append(Member(name, member.offset_data, member.size))
        if read_labels and name.endswith((".cls", ".json")) and member.size <= _MAX_LABEL_BYTES:
            label = _read_label(archive, member)
            if label is not None:
                contents.labels.setdefault(stem(name), label)


def _read_label(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    stream = archive.extractfile(member)
    text = stream.read().decode("utf-8", "replace").strip() if stream else ""
    if not member.name.endswith(".json"):
        return text or None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = [value[k] for k in _LABEL_KEYS if k in value] if isinstance(value, dict) else []
    return label_text(found[0]) if found else None


def _labels(name: str, labels: dict[str, str], archive_name: str) -> tuple[tuple[str, ...], bool]:
    """A companion's label, which is a written one; else the member's first folder and the tar's name, which are not.

    ImageNet-1k comes as a tar per class.
    """
    written = [labels[key] for key in dict.fromkeys((stem(name), webdataset_key(name))) if key in labels]
    if written:
        return tuple(written[:1]), True
    folder, slash, _ = name.partition("/")
    return (*((folder,) if slash else ()), archive_name), False


def _check_end(stream: IO[bytes], offset: int) -> str:
    """tarfile takes any unreadable header after the first for the end; the true end is a block of zeros."""
    stream.seek(offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        return f"no member header at byte {offset}"
    return "" if len(block) == tarfile.BLOCKSIZE else "the end-of-archive mark is missing"
