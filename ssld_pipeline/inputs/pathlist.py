"""List inputs: a text file with a path and, where there is one, a label in each line, as PaddleClas has them."""

from __future__ import annotations

import codecs
import posixpath
import re
from collections.abc import Iterator

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.candidates import Candidate
from ssld_pipeline.inputs.location import filesystem, join
from ssld_pipeline.inputs.names import IMAGE_SUFFIXES, Ids, escaped, is_utf8, printable, suffix
from ssld_pipeline.inputs.shard import Listed, Shard, Source
from ssld_pipeline.inputs.slices import slices
from ssld_pipeline.inputs.walk import look_up

_PATH_COLUMNS = frozenset(["path", "file", "filename", "file_name", "filepath", "image", "image_path"])
_LABEL_COLUMNS = frozenset(["label", "class", "class_id", "class_name", "target"])


def list_shards(source: Source, uri: str, images_per_part: int) -> tuple[list[Shard], list[Reject]]:
    """Slices of the list, called ``<list file>#<slice>``; rejects for repeated, missing and undecodable paths.

    Raises OSError when the list itself cannot be read. Rejects: image_ids relative to the input.
    """
    ids = Ids()
    files: list[Listed] = []
    rejects: list[Reject] = []
    for path, label in _lines(source, uri):
        relative = posixpath.normpath(path.removeprefix(source.root + "/")).lstrip("/")
        repeated = printable(relative) in ids
        image_id = ids.unique(printable(relative))
        where = path if path.startswith("/") or "://" in path else join(source.root, posixpath.normpath(path))
        if not is_utf8(relative):
            rejects.append(Reject(image_id, "undecodable_name", escaped(relative)))
        elif repeated:
            rejects.append(Reject(image_id, "duplicate_name", f"{relative} is listed twice; the first is used"))
        else:
            try:
                files.append(_look_up(where, relative, label))
            except OSError as error:
                rejects.append(Reject(image_id, "unreadable", error.strerror or str(error)))
    name = uri.rsplit("/", 1)[-1]
    cut = slices([f.relative for f in files], images_per_part)
    return [Shard.of(source, f"{name}#{k}", [files[i] for i in members]) for k, members in cut.items()], rejects


def candidates(shard: Shard) -> Iterator[Candidate]:
    for row in shard.listing.to_pylist():
        labels = () if row["label"] is None else (row["label"],)
        image_id = f"{shard.input_name}/{row['relative']}"
        yield Candidate(image_id, row["path"], 0, row["size_bytes"], row["stamp"], labels)


def split_line(line: str) -> tuple[str, str | None]:
    """(path, label). The label follows a tab, or a comma after an image's name, or is the last word of the line, unless
    that word is an image's name."""
    path, tab, label = line.rpartition("\t")
    if not tab:
        path, comma, label = line.rpartition(",")
        if not comma or suffix(path.rstrip()).lower() not in IMAGE_SUFFIXES:
            path, _, label = line.rpartition(" ")
    if not path or suffix(label).lower() in IMAGE_SUFFIXES:
        return line, None
    return path.strip(), printable(label.strip()) or None


def _lines(source: Source, uri: str) -> Iterator[tuple[str, str | None]]:
    """UserError for a file that is no text."""
    files, path = filesystem(uri)
    data: bytes = files.cat_file(path)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as Windows' PowerShell writes
        data = data.decode("utf-16", "replace").encode("utf-8", "replace")
    if b"\0" in data:
        raise UserError(
            f"inputs.{source.role}: {uri} is no list of images: it contains zero bytes. Expected a text file of 'path "
            "label' lines in UTF-8, or in UTF-16 with a byte order mark; save it as UTF-8"
        )
    lines = [line.strip() for line in data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")]
    for place, line in enumerate(lines):
        if line and not (place == 0 and _is_header(line)):
            yield split_line(line)


def _is_header(line: str) -> bool:
    """Whether a first line names columns: "path label" or "image,class_id"."""
    first, *others = re.split(r"[\s,]+", line.lower())
    return first in _PATH_COLUMNS and len(others) == 1 and others[0] in _LABEL_COLUMNS


def _look_up(path: str, relative: str, label: str | None) -> Listed:
    entry = look_up(path)
    if entry.is_folder or entry.problem:
        raise OSError(entry.problem or "a folder")
    return Listed(path, relative, entry.size_bytes, entry.stamp, label)
