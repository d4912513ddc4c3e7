"""Folder inputs: class folders (the class is the first path segment below the root) or images directly in the root."""

from __future__ import annotations

from collections.abc import Iterator

from ssld_pipeline.contracts import Reject
from ssld_pipeline.inputs.candidates import Candidate
from ssld_pipeline.inputs.names import IMAGE_SUFFIXES, printable, sort_out, suffix
from ssld_pipeline.inputs.shard import Listed, Shard, Source
from ssld_pipeline.inputs.slices import slices
from ssld_pipeline.inputs.walk import Found, enter, walk

_FLAT = "."


def list_shards(source: Source, images_per_part: int) -> tuple[list[Shard], list[Reject]]:
    """Slices of each class folder's files, called ``<folder>#<slice>``; ``.`` is the root's own files.

    Raises OSError when the root cannot be listed. Rejects: image_ids relative to the input.
    """
    shards: list[Shard] = []
    rejects: list[Reject] = []
    own, folders = enter(source.root, "")
    for name, found in [(_FLAT, own), *((f, walk(source.root, f)) for f in folders)]:
        files, unknown = images_of(found)
        rejects += found.rejects + unknown
        if name != _FLAT and not files and not found.rejects and not unknown:
            rejects.append(Reject(printable(name), "empty_class", "no image in this folder"))
        cut = slices([f.relative for f in files], images_per_part)
        shards += [Shard.of(source, f"{name}#{k}", [files[i] for i in members]) for k, members in cut.items()]
    return shards, rejects


def images_of(found: Found) -> tuple[list[Listed], list[Reject]]:
    """The files that may be images, and a reject for each that is neither image nor companion."""
    names, doubtful = sort_out(f.relative for f in found.files)
    wanted = set(names)
    rejects = [Reject(n, "not_an_image", no_image_by_name(n)) for n in doubtful]
    return [f for f in found.files if f.relative in wanted], rejects


def no_image_by_name(name: str) -> str:
    return f"{suffix(name)!r} is the suffix of no image ({', '.join(sorted(IMAGE_SUFFIXES))})"


def candidates(shard: Shard) -> Iterator[Candidate]:
    for path, relative, size, stamp in zip(
        *(shard.listing[c].to_pylist() for c in ("path", "relative", "size_bytes", "stamp")), strict=True
    ):
        folder, slash, _ = relative.partition("/")
        yield Candidate(f"{shard.input_name}/{relative}", path, 0, size, stamp, (folder,) if slash else (), False)
