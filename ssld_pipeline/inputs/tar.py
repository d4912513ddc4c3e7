"""Tar inputs, plain or webdataset: member headers only, so that a tar is catalogued without reading its images."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from ssld_pipeline.contracts import Reject, RejectOfMany
from ssld_pipeline.inputs.archives import ARCHIVES
from ssld_pipeline.inputs.candidates import Candidate
from ssld_pipeline.inputs.folder import no_image_by_name
from ssld_pipeline.inputs.location import filesystem
from ssld_pipeline.inputs.names import has_suffix, sort_out, stem, webdataset_key
from ssld_pipeline.inputs.samples import Samples, samples
from ssld_pipeline.inputs.shard import Shard
from ssld_pipeline.inputs.tar_members import Contents, Member, read_contents

_READ_AHEAD_BYTES = 64 * 1024


class _Label(NamedTuple):
    """See ``Candidate``."""

    labels: tuple[str, ...]
    are_written: bool
    unlabelled: str = ""


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
    names = [member.name for member in contents.members]
    images, doubtful = sort_out(names)
    found = samples(names, images)
    wanted = set(images) - found.companions.keys()
    fallback = posixpath.basename(stem(listed["relative"]))
    candidates = [
        Candidate(
            f"{shard.name}/{m.name}",
            listed["path"],
            m.offset,
            m.size_bytes,
            listed["stamp"],
            *_label(m.name, contents.labels, found, fallback),
        )
        for m in contents.members
        if m.name in wanted and not m.problem
    ]
    rejects = [*contents.rejects, *_rejects(contents.members, wanted, found.companions, doubtful)]
    complete = [replace(r, image_id=f"{shard.name}/{r.image_id}") for r in rejects]
    if contents.damage:
        complete.append(
            RejectOfMany(shard.name, "truncated_archive", contents.damage, _num_lost(contents, len(candidates)))
        )
    return candidates, complete


def _rejects(
    members: list[Member], wanted: set[str], companions: Mapping[str, str], doubtful: list[str]
) -> Iterator[Reject]:
    for member in members:
        if member.name in companions:
            yield RejectOfMany(member.name, "companion", f"belongs to the sample of {companions[member.name]}", 0)
        elif member.problem and member.name in wanted:
            yield Reject(member.name, "unsupported_member", member.problem)
    for name in doubtful:
        if has_suffix(name, *ARCHIVES):
            yield Reject(
                name, "nested_archive", "unpack the outer tar, and name the folder of what was in it as the input"
            )
        else:
            yield Reject(name, "not_an_image", no_image_by_name(name))


def _num_lost(contents: Contents, num_images: int) -> int:
    """Estimated from the bytes that are not read: as many images in each as in those before; at least 1."""
    last = max(contents.members, key=lambda member: member.offset, default=Member(""))
    return max(1, round(num_images * contents.num_unread_bytes / max(1, last.offset + last.size_bytes)))


def _label(name: str, labels: Mapping[str, str], found: Samples, archive_name: str) -> _Label:
    """A companion's label, which is a written one; else the member's first folder and the tar's name, which are not.

    ImageNet-1k comes as a tar per class. Where a sample holds several pictures, its label is of none of them.
    """
    key, own, rivals = webdataset_key(name), stem(name), found.rivals.get(name, ())
    written = [labels[n] for n in dict.fromkeys((own, key)) if n in labels and not (rivals and n == key)]
    if written:
        return _Label(tuple(written[:1]), True)
    if rivals and key in labels:
        return _Label((), True, f"the label of {key} may be of any of {', '.join(rivals)}")
    folder, slash, _ = name.partition("/")
    return _Label((*((folder,) if slash else ()), archive_name), False)
