"""Canaries: altered copies of protected images, to test the search with. None ever enters a pool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

from ssld_pipeline.kernels.digests import hash64

# Bounds what a canary costs. The search itself looks at a quarter of this.
_LONGER_SIDE_PX = 1024


@dataclass(frozen=True)
class Canary:
    """A copy of ``protected_id`` altered in the way ``kind``, one of ``alterations.KINDS``."""

    number: int
    protected_id: str
    kind: str

    @property
    def image_id(self) -> str:
        return f"canary/{self.number:05d}"


def draw(image_ids: Iterable[str], count: int) -> list[Canary]:
    """``count`` canaries, kinds by turns; no image a second time before each has had its turn; none without images.

    The order of ``image_ids`` does not matter: a digest of each draws it.
    """
    from ssld_pipeline.copies.planted.alterations import KINDS

    images, drawn, turn = list(image_ids), list[str](), 0
    while images and len(drawn) < count:
        drawn += nsmallest(count - len(drawn), images, key=lambda image: hash64(repr([turn, image])))
        turn += 1
    return [Canary(i, image, KINDS[i % len(KINDS)]) for i, image in enumerate(drawn)]


def altered(original: bytes, canary: Canary) -> bytes:
    """The encoded copy of the encoded image. Raises BadImage where it cannot be made."""
    import numpy as np

    from ssld_pipeline.copies.planted.alterations import plant
    from ssld_pipeline.kernels.images import decode, encode_jpeg

    if canary.kind == "exact":
        return original
    rng = np.random.default_rng(hash64(repr([canary.number, canary.protected_id, canary.kind])))
    pixels = _reduced(decode(original, min_short_side=_LONGER_SIDE_PX // 2).pixels)
    return encode_jpeg(plant(pixels, canary.kind, rng))


def _reduced(pixels: Any) -> Any:
    import cv2

    scale = _LONGER_SIDE_PX / max(pixels.shape)
    size = max(8, round(pixels.shape[1] * scale)), max(8, round(pixels.shape[0] * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
