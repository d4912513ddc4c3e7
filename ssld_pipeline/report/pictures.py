"""Small embedded pictures, each bounded in bytes and all of them bounded in number."""

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
MIN_DECODED_PX = 288  # short side that a reduced decoding keeps: twice the largest picture of the page
MAX_BYTES = 6_000
MOST_IMAGES = 2_000  # of MAX_BYTES each, as base64: 16 MB


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


class Album:
    """Reads and embeds images until ``max_images`` are embedded."""

    def __init__(self, read: Read, max_images: int) -> None:
        self._read = read
        self.left = max(0, min(max_images, MOST_IMAGES))

    def load(self, address: Address) -> Image | Picture:
        """The upright image, perhaps decoded at a reduced size, or a placeholder with the reason."""
        if not self.left:
            return Picture(None, problem="not embedded: the page has reached its number of images")
        if address.uri is None or address.offset is None or address.size_bytes is None:
            return Picture(None, problem="not in the catalog")
        try:
            return decode(self._read(address.uri, address.offset, address.size_bytes), min_short_side=MIN_DECODED_PX)
        except BadImage as error:
            return Picture(None, problem=str(error))
        except OSError as error:
            return Picture(None, problem=f"unreadable: {error.strerror or type(error).__name__}")

    def embed(self, pixels: Pixels) -> Picture:
        """``pixels`` (H, W, 3) RGB as they are, JPEG-encoded; uses up one of the page's images."""
        self.left -= 1
        return Picture(_data_uri(pixels), pixels.shape[1], pixels.shape[0])

    def thumbnail(self, address: Address, side_px: int = SIDE_PX) -> Picture:
        loaded = self.load(address)
        return loaded if isinstance(loaded, Picture) else self.embed(shrink(loaded.pixels, side_px))


def shrink(pixels: Pixels, side_px: int) -> Pixels:
    """The image with its longer side at ``side_px`` or, where it is smaller already, as it is."""
    height, width = pixels.shape[:2]
    scale = side_px / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _data_uri(pixels: Pixels) -> str:
    """A JPEG of at most MAX_BYTES wherever quality 20 gets there (noise of 144 x 144 px does)."""
    for quality in (82, 65, 45, 20):
        _, encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if encoded.size <= MAX_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
