"""The images of the pairs that are shown, each read and searched for key points once, file by file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.features.sift import KeyPoints, resize_grey
from ssld_pipeline.copies.geometry.homography import Size
from ssld_pipeline.kernels.ahead import ahead
from ssld_pipeline.report.matches import pool_keypoints, protected_keypoints
from ssld_pipeline.report.overlay import SLOT_PX
from ssld_pipeline.report.pictures import Address, Picture, Read, encode, load, shrink

if TYPE_CHECKING:
    from ssld_pipeline.config.dedupe import DedupeConfig

Detect = Callable[[npt.NDArray[np.uint8], "DedupeConfig"], KeyPoints]


@dataclass(frozen=True)
class Portrait:
    """Some 200 kB of an image. ``size``: of the source, pixels; ``grey``: as key points are searched in it;
    ``keypoints``: None where no pair needs them."""

    size: Size
    picture: Picture
    grey: npt.NDArray[np.uint8]
    keypoints: KeyPoints | None


class Portraits:
    """Portraits, or placeholders with the reason, by image_id."""

    def __init__(self, cases: Sequence[Mapping[str, Any]], read: Read, config: DedupeConfig) -> None:
        self._read, self._config = read, config
        with_lines = [case for case in cases if case["method"] == "sift"]
        self.pool = self._paint(map(_pool, cases), {c["image_id"] for c in with_lines}, pool_keypoints)
        self.protected = self._paint(
            map(_protected, cases), {c["protected_id"] for c in with_lines}, protected_keypoints
        )

    def _paint(
        self, addresses: Iterable[Address], with_keypoints: set[str], detect: Detect
    ) -> dict[str, Portrait | Picture]:
        # A step back in a Parquet file costs its row group.
        ordered = sorted(set(addresses), key=lambda a: (a.uri or "", a.offset or 0, a.image_id))
        painted = ahead(
            lambda a: self._portrait(a, detect if a.image_id in with_keypoints else None), ordered, _num_threads()
        )
        return {address.image_id: one for address, one in zip(ordered, painted, strict=True)}

    def _portrait(self, address: Address, detect: Detect | None) -> Portrait | Picture:
        # Decoded as find_copies decodes it, or other key points would be found.
        image = load(self._read, address, self._config.image_side)
        if isinstance(image, Picture):
            return image
        grey = resize_grey(image.pixels, self._config.image_side)
        keypoints = detect(grey, self._config) if detect else None
        return Portrait((image.width, image.height), encode(shrink(image.pixels, SLOT_PX)), grey, keypoints)


def _num_threads() -> int:
    return min(8, os.cpu_count() or 1)


def _pool(case: Mapping[str, Any]) -> Address:
    return Address(case["image_id"], case["uri"], case["offset"], case["size_bytes"])


def _protected(case: Mapping[str, Any]) -> Address:
    return Address(case["protected_id"], case["protected_uri"], case["protected_offset"], case["protected_size_bytes"])
