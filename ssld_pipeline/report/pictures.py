"""Small embedded pictures and the bytes of the page that they may use up."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ssld_pipeline.errors import BadImage
from ssld_pipeline.kernels.images import Image, Pixels, decode

Read = Callable[[str, int, int], bytes]

SIDE_PX = 112
MIN_DECODED_PX = 224  # short side that a reduced decoding keeps: twice the picture
# Of 40 photographs of 160 px: WebP 75 takes 3.2 kB at 33.9 dB, JPEG 82 5.3 kB at 34.0 dB.
_QUALITIES = (75, 50, 20, 5)
MAX_BYTES = 7_000


@dataclass(frozen=True)
class Address:
    """Where an image lies; ``uri`` is None where the catalog does not know the image."""

    image_id: str
    uri: str | None
    offset: int | None
    size_bytes: int | None


@dataclass(frozen=True)
class Picture:
    """``src`` is a data URI; without one, ``problem`` says why there is nothing to see."""

    src: str | None
    width: int = SIDE_PX
    height: int = SIDE_PX
    problem: str = ""

    @property
    def num_bytes(self) -> int:
        return len(self.src or self.problem)


class Album:
    """The page's pictures: ``left`` bytes may still be embedded, as base64."""

    def __init__(self, read: Read, max_bytes: int) -> None:
        self.read = read
        self.left = max_bytes

    def take(self, num_bytes: int) -> bool:
        """Whether so many bytes still fit; if so they are used up."""
        fits = num_bytes <= self.left
        self.left -= num_bytes if fits else 0
        return fits

    def thumbnail(self, address: Address, side_px: int = SIDE_PX) -> Picture:
        loaded = load(self.read, address, MIN_DECODED_PX)
        found = loaded if isinstance(loaded, Picture) else encode(shrink(loaded.pixels, side_px))
        return found if self.take(found.num_bytes) else Picture(None, problem="the page is full")


def load(read: Read, address: Address, min_short_side: int) -> Image | Picture:
    """The upright image, perhaps decoded at a reduced size, or a placeholder with the reason."""
    if address.uri is None or address.offset is None or address.size_bytes is None:
        return Picture(None, problem="not in the catalog")
    try:
        return decode(read(address.uri, address.offset, address.size_bytes), min_short_side=min_short_side)
    except BadImage as error:
        return Picture(None, problem=str(error))
    except OSError as error:
        return Picture(None, problem=f"unreadable: {error.strerror or type(error).__name__}")


def shrink(pixels: Pixels, side_px: int) -> Pixels:
    """The image with its longer side at ``side_px`` or, where it is smaller already, as it is."""
    height, width = pixels.shape[:2]
    scale = side_px / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode(pixels: Pixels) -> Picture:
    """``pixels`` (H, W, 3) RGB or (H, W, 4) RGBA as a WebP of at most MAX_BYTES wherever quality 5 gets there (noise of
    144 x 144 px does)."""
    swapped = np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]])
    for quality in _QUALITIES:
        _, encoded = cv2.imencode(".webp", swapped, [cv2.IMWRITE_WEBP_QUALITY, quality])
        if encoded.size <= MAX_BYTES:
            break
    src = "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()
    return Picture(src, pixels.shape[1], pixels.shape[0])
