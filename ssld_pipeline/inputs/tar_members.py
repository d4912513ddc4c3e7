"""The members of a tar, read from its headers: names, offsets, labels, and members that cannot be read."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

from ssld_pipeline.contracts import Reject
from ssld_pipeline.inputs.labels import label_text
from ssld_pipeline.inputs.names import escaped, has_suffix, is_safe, is_utf8, printable, stem

_MAX_LABEL_BYTES = 1024 * 1024
_LABEL_SUFFIXES = (".cls", ".json")
_LABEL_KEYS = ("label", "cls", "class")
_LONGEST_CHAIN = 40  # of links, as Linux follows them
_READ_BYTES = 1024 * 1024
_MOST_PADDING_BYTES = 4 * 1024 * 1024  # the largest records of tape drives; GNU tar pads to 10 kB
_NO_FILES = (b"V", b"D")  # GNU tar: the volume's label, the list of a folder's names
# tarfile checks neither the numbers in extended headers nor that they are whole.
_HEADER_FAILURES = (
    tarfile.TarError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_KINDS = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
    b"M": "the continuation of a file of another volume",
}
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"PK\x03\x04": "zip",
}


class Member(NamedTuple):
    """``problem``: why its bytes are not at ``offset``; ``target``: of a link, the name of the member it points to."""

    name: str
    offset: int = 0
    size_bytes: int = 0
    problem: str = ""
    target: str = ""


class Contents:
    """``labels``: by the name, without suffix, of the member that holds it. ``rejects``: image_ids are member names.
    ``damage``: why reading ended early; ``num_unread_bytes`` follow it, 0 where the file itself ends early."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.folders: set[str] = set()
        self.labels: dict[str, str] = {}
        self.rejects: list[Reject] = []
        self.damage = ""
        self.num_unread_bytes = 0

    def follow_links(self) -> None:
        """Replace each link by the member it points to, under the link's name. Links to folders hold no image of their
        own and are left out."""
        if not any(member.target for member in self.members):
            return
        by_name: dict[str, Member] = {}
        for member in self.members:
            by_name.setdefault(member.name, member)
        folders = self.folders | {folder for name in by_name for folder in _parents(name)}
        found, self.members = self.members, []
        for member in found:
            end = _end_of(member, by_name)
            if not end.target:
                self.members.append(end._replace(name=member.name))
                self._share_label(member, end)
            elif end.target not in folders:
                problem = f"a link to {printable(member.target)}, which is no file of this tar"
                self.members.append(Member(member.name, problem=problem))

    def _share_label(self, member: Member, end: Member) -> None:
        if member.target and has_suffix(member.name, *_LABEL_SUFFIXES) and stem(end.name) in self.labels:
            self.labels.setdefault(stem(member.name), self.labels[stem(end.name)])


def _end_of(member: Member, by_name: dict[str, Member]) -> Member:
    """Where a chain of links ends: a file, or the last link that can be followed."""
    for _ in range(_LONGEST_CHAIN):
        if member.target not in by_name:
            break
        member = by_name[member.target]
    return member


def _parents(name: str) -> Iterator[str]:
    while name := posixpath.dirname(name):
        yield name


def read_contents(stream: IO[bytes], size_bytes: int, contents: Contents, read_labels: bool) -> None:
    """Fill ``contents`` up to the file's end or damage. Raises OSError when the stream cannot be read.

    Tars that were joined are read one after the other, as by ``tar --ignore-zeros``.
    """
    position: int | None = 0
    while position is not None and not contents.damage:
        end = _read_archive(stream, position, size_bytes, contents, read_labels)
        if not contents.damage:
            position = _check_end(stream, end, position, size_bytes, contents)
    contents.follow_links()


def _read_archive(stream: IO[bytes], position: int, size_bytes: int, contents: Contents, read_labels: bool) -> int:
    """The position of the first block that is no member."""
    stream.seek(position)
    end = position
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            while (member := archive.next()) is not None:
                if member.size < 0 or member.offset_data + _stored_bytes(member) > size_bytes:
                    contents.damage = f"the archive ends within {printable(member.name)}"
                    return end
                _take(archive, member, contents, read_labels)
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it saw
                end = archive.offset
            return archive.offset
    except _HEADER_FAILURES as error:
        contents.damage = (_compression(stream) if end == 0 else "") or str(error) or type(error).__name__
        contents.num_unread_bytes = max(0, size_bytes - end)
    return end


def _compression(stream: IO[bytes]) -> str:
    stream.seek(0)
    start = stream.read(max(map(len, _COMPRESSIONS)))
    found = next((name for mark, name in _COMPRESSIONS.items() if start.startswith(mark)), "")
    return (
        f"no tar but a {found} file. Images are read at an offset in a tar: unpack it to a plain .tar" if found else ""
    )


def _check_end(stream: IO[bytes], end: int, start: int, size_bytes: int, contents: Contents) -> int | None:
    """Where the next archive of the file starts, None where there is none.

    tarfile takes any unreadable header after the first for the end; the true end is a block of zeros.
    """
    stream.seek(end)
    block = stream.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        behind = " behind an end-of-archive mark" if end == start and end else ""
        contents.damage = f"no member header at byte {end}{behind}; {size_bytes - end} bytes from there are not read"
        contents.num_unread_bytes = size_bytes - end
    elif len(block) < tarfile.BLOCKSIZE:
        contents.damage = "the end-of-archive mark is missing"
    elif (following := _skip_zeros(stream, end + tarfile.BLOCKSIZE)) is not None:
        return following
    elif size_bytes - end > _MOST_PADDING_BYTES:
        contents.damage = f"{size_bytes - end} bytes of zeros follow byte {end}, as in a download that is not complete"
        contents.num_unread_bytes = size_bytes - end
    return None


def _skip_zeros(stream: IO[bytes], position: int) -> int | None:
    """The first block from ``position`` on that is not of zeros; None where no byte is set up to the end."""
    stream.seek(position)
    while piece := stream.read(_READ_BYTES):
        zeros = len(piece) - len(piece.lstrip(b"\0"))
        if zeros < len(piece):
            return position + zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        position += len(piece)
    return None


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, contents: Contents, read_labels: bool) -> None:
    name = posixpath.normpath(member.name)
    if member.isdir():
        contents.folders.add(name)
    elif member.type in _NO_FILES:
        return
    elif not is_utf8(name):
        contents.rejects.append(Reject(printable(name), "undecodable_name", escaped(name)))
    elif not is_safe(member.name):
        contents.rejects.append(Reject(name.lstrip("/"), "unsafe_name", member.name))
    elif member.islnk() or member.issym():
        contents.members.append(Member(name, target=_target(name, member)))
    else:
        contents.members.append(Member(name, member.offset_data, member.size, _problem(member)))
        if read_labels and has_suffix(name, *_LABEL_SUFFIXES) and member.isreg() and member.size <= _MAX_LABEL_BYTES:
            label = _read_label(archive, member)
            if label is not None:
                contents.labels.setdefault(stem(name), label)


def _target(name: str, member: tarfile.TarInfo) -> str:
    """A hard link names its member from the top of the archive, a symbolic link from its own folder."""
    folder = posixpath.dirname(name) if member.issym() else ""
    return posixpath.normpath(posixpath.join(folder, member.linkname))


def _stored_bytes(member: tarfile.TarInfo) -> int:
    """Of the member's data in the archive: without the holes of a sparse one."""
    if (pieces := _pieces(member)) is not None:
        return sum(size for _, size in pieces)
    return member.size if member.isreg() or member.type not in tarfile.SUPPORTED_TYPES else 0


def _problem(member: tarfile.TarInfo) -> str:
    if not member.isreg():
        return _KINDS.get(member.type, f"of the unknown type {member.type!r}")
    if (pieces := _pieces(member)) is not None and not _is_whole(pieces, member.size):
        return "stored with holes (tar --sparse): pack it again without --sparse"
    return ""


def _pieces(member: tarfile.TarInfo) -> list[tuple[int, int]] | None:
    """(offset in the file, bytes) of what a sparse member stores; None for another one."""
    return cast("list[tuple[int, int]] | None", member.sparse)


def _is_whole(pieces: list[tuple[int, int]], size_bytes: int) -> bool:
    """Whether the pieces of a sparse member are all of it, in order: some tars call a file sparse that has no hole."""
    end = 0
    for offset, size in pieces:
        if size and offset != end:
            return False
        end += size
    return end == size_bytes


def _read_label(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    stream = archive.extractfile(member)
    text = stream.read().decode("utf-8", "replace").strip() if stream else ""
    if not has_suffix(member.name, ".json"):
        return text or None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = [value[k] for k in _LABEL_KEYS if k in value] if isinstance(value, dict) else []
    return label_text(found[0]) if found else None
