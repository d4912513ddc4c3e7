"""Webdataset samples: the members of a tar that share a name up to its first dot, and which of them is the picture.

In ``0001.jpg, 0001.seg.png, 0001.thumb.jpg, 0001.cls`` the picture is the image whose name is nothing but the key and
a suffix. The other images are companions: no images of the catalog, and the label is not theirs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ssld_pipeline.inputs.names import has_suffix, stem, suffix, webdataset_key

# What describes a sample: fields that webdataset decodes (webdataset/autodecode.py) and that are no image.
_DESCRIPTIONS = frozenset(
    f".{name}"
    for name in (
        *("cls", "cls2", "class", "count", "index", "inx", "id", "json", "jsn", "txt", "text", "transcript"),
        *("npy", "npz", "pyd", "pickle", "pth", "ten", "tb", "mp", "msg", "msgpack", "cbor"),
    )
)
# Infixes of images that are no photograph, or the same one smaller.
_MAPS = frozenset(
    [
        *("seg", "segm", "segmentation", "semantic", "semseg", "instance", "instances", "panoptic", "labelmap"),
        *("mask", "masks", "matte", "trimap", "depth", "depthmap", "disparity"),
        *("thumb", "thumbs", "thumbnail", "preview"),
    ]
)
_PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".jfif")


class Samples(NamedTuple):
    """``companions``: image -> the picture of its sample; ``rivals``: image -> the images of one key, where the label
    of that key may be of another one of them."""

    companions: dict[str, str]
    rivals: dict[str, tuple[str, ...]]


def samples(names: Iterable[str], images: Iterable[str]) -> Samples:
    """``names``: of all members; ``images``: those of them that are images.

    A plain tar of photographs keeps all of them: images of one key are a sample only where something describes the key
    (``0001.cls``, ``0001.json``), or where an infix says what they are (``seg``, ``mask``, ``thumb``). An image that is
    itself described (``a.1.jpg`` by ``a.1.txt``) is a sample of its own.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(images):
        groups[webdataset_key(name)].append(name)
    several = {key: group for key, group in groups.items() if len(group) > 1}
    described = {stem(n) for n in names if suffix(n).lower() in _DESCRIPTIONS and webdataset_key(n) in several}
    found = Samples({}, {})
    for key, group in several.items():
        own = [name for name in group if stem(name) == key or _is_map(key, name) or stem(name) not in described]
        _sort_out(key, own, key in described, found)
        found.rivals.update(dict.fromkeys(set(group) - set(own), tuple(group)))
    return found


def _sort_out(key: str, group: list[str], is_described: bool, found: Samples) -> None:
    plain = [name for name in group if stem(name) == key]
    if plain:
        pictures = _photographs(plain) if is_described else plain
    else:
        pictures = [name for name in group if not _is_map(key, name)] or group
    for name in group:
        if name not in pictures and (is_described or _is_map(key, name)):
            found.companions[name] = pictures[0]
    if len(pictures) > 1:
        found.rivals.update(dict.fromkeys(pictures, tuple(pictures)))


def _photographs(plain: list[str]) -> list[str]:
    """Of ``0001.jpg`` and ``0001.png`` the former: a mask cannot be a JPEG."""
    found = [name for name in plain if has_suffix(name, *_PHOTOGRAPHS)]
    return found if len(found) == 1 else plain


def _is_map(key: str, name: str) -> bool:
    infix = stem(name)[len(key) :].lower()
    return any(word in _MAPS for word in re.findall("[a-z]+", infix))
