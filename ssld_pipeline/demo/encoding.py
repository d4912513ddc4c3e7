"""JPEG bytes to RGB pixels, and tars of named images, byte for byte the same each time."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from ssld_pipeline.kernels.images import Pixels


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
