"""What a file's or member's name tells: image or companion, printable or not, safe or not."""

from __future__ import annotations

from collections.abc import Iterable

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
    ]
)
"""Names that claim to be an image; the decoder has the last word, so that a .tiff is counted and not overlooked."""

COMPANION_SUFFIXES = frozenset(
    [
        ".txt",
        ".json",
        ".jsonl",
        ".xml",
        ".csv",
        ".tsv",
        ".yaml",
        ".yml",
        ".md",
        ".html",
        ".htm",
        ".cls",
        ".id",
        ".index",
        ".url",
        ".log",
        ".db",
        ".ini",
        ".pdf",
        ".py",
        ".sh",
        ".lst",
        ".list",
    ]
)


def printable(name: str) -> str:
    """The name as UTF-8 text; bytes that are none become replacement characters."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def escaped(name: str) -> str:
    """The name with its undecodable bytes as \\xNN, by which a person finds the file."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_utf8(name: str) -> bool:
    """False where the file system's bytes are not UTF-8 (Python shows them as lone surrogates)."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def suffix(name: str) -> str:
    """``a/b.jpg`` -> ``.jpg``, as pathlib's, at a tenth of its time: a pool has millions of names."""
    dot = name.rfind(".")
    return name[dot:] if name.rfind("/") + 1 < dot < len(name) - 1 else ""


def has_suffix(name: str, *endings: str) -> bool:
    """Whether the name ends with one of ``endings`` (lower case), in either case: Windows tools write DATA.PARQUET."""
    return name.lower().endswith(endings)


def stem(name: str) -> str:
    """``a/b.jpg`` -> ``a/b``: what an image and its companions share."""
    return name.removesuffix(suffix(name))


def webdataset_key(name: str) -> str:
    """``a/b.seg.png`` -> ``a/b``: webdataset cuts the last segment at its first dot."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0]


def is_safe(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def sort_out(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(images, neither image nor companion), each in the given order.

    Images have a suffix of ``IMAGE_SUFFIXES``, in either case, or none at all (files named by their hash). Companions
    are passed over in silence: hidden files, ``COMPANION_SUFFIXES``, and whatever shares its stem with an image, as
    webdataset's components do. The rest (a video, an archive) is for the caller to count.
    """
    images: list[str] = []
    doubtful: list[str] = []
    for name in names:
        ending = suffix(name).lower()
        if ending in COMPANION_SUFFIXES or name.startswith(".", name.rfind("/") + 1):
            continue
        (images if not ending or ending in IMAGE_SUFFIXES else doubtful).append(name)
    if not doubtful:
        return images, []
    accompanied = {key for name in images for key in (stem(name), webdataset_key(name))}
    return images, [n for n in doubtful if stem(n) not in accompanied and webdataset_key(n) not in accompanied]


class Ids:
    """Gives every image_id out once: the second ``a`` becomes ``a#2``."""

    def __init__(self) -> None:
        self._given: dict[str, int] = {}

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._given

    def unique(self, image_id: str) -> str:
        number = self._given.get(image_id, 0)
        candidate = image_id
        while candidate in self._given:
            number += 1
            candidate = f"{image_id}#{max(number, 2)}"
        self._given[image_id] = max(number, 1)
        self._given.setdefault(candidate, 1)
        return candidate
