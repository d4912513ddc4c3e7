"""RGB pixels to JPEG bytes and back, and tars of named images, byte for byte the same each time."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

QUALITY = 90
"""JPEG quality (libjpeg's scale) of what is drawn or altered."""


def encode_jpeg(image: Pixels, quality: int = QUALITY) -> bytes:
    """The JPEG file of a (H, W, 3) uint8 RGB picture."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def decode_jpeg(data: bytes) -> Pixels:
    """(H, W, 3) uint8 RGB; ValueError where the bytes are no image."""
    image: Pixels | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"not an image OpenCV decodes: {data[:16]!r}...")
    return image


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A plain tar of (name, bytes), without owners or times."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
