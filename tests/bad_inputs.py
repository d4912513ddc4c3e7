"""Makes good and bad image files, folders and tars; what each must lead to stands beside it."""

from __future__ import annotations

import functools
import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def photo(seed: int = 0, width: int = 160, height: int = 120) -> np.ndarray:
    """uint8 HxWx3 RGB: smooth colour blobs, such that JPEG keeps them."""
    grid = np.random.default_rng(seed).integers(0, 255, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(pixels: np.ndarray | Image.Image, format: str = "JPEG", **options: object) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def with_orientation(pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(pixels, quality=95, exif=exif)


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


@functools.cache
def png_bomb(side: int = 30_000) -> bytes:
    """A complete, valid 1-bit PNG of side x side pixels in about 110 kB; as RGB it would take 2.7 GB."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = bytes(1 + (side + 7) // 8)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(row * 1000) for _ in range(side // 1000)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    """A small JPEG whose frame header announces 60,000 x 60,000 pixels."""
    data = bytearray(encode(photo()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


@functools.cache
def files() -> dict[str, tuple[bytes, str | None]]:
    """File name -> (bytes, the reason it is rejected, or None when it can be used)."""
    good = encode(photo())
    palette = Image.fromarray(photo(3)).quantize(64)
    sixteen = Image.fromarray(photo(4)[..., 0].astype(np.uint16) * 257)
    return {
        "good.jpg": (good, None),
        "upper.JPEG": (encode(photo(1)), None),
        "png_named.jpg": (encode(photo(2), "PNG"), None),
        "cmyk.jpg": (encode(Image.fromarray(photo()).convert("CMYK")), None),
        "palette.png": (encode(palette, "PNG"), None),
        "sixteen_bit.png": (encode(sixteen, "PNG"), None),
        "rotated.jpg": (with_orientation(photo(5), 6), None),
        "truncated.jpg": (good[: len(good) // 2], "truncated_image"),
        "empty.jpg": (b"", "empty_file"),
        "text.jpg": (b"<html>404 not found</html>", "not_an_image"),
        "one_pixel.png": (encode(photo()[:1, :1], "PNG"), "too_small"),
        "bomb.png": (png_bomb(), "too_many_pixels"),
    }


def write_bad_folder(folder: Path) -> dict[str, str | None]:
    """Fills a folder; returns file name -> the reason a decoder rejects it, or None. The names are all UTF-8."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (data, _) in files().items():
        (folder / name).write_bytes(data)
    return {name: reason for name, (_, reason) in files().items()}


def write_undecodable(folder: Path) -> None:
    """Adds one JPEG whose name is no UTF-8."""
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).write_bytes(encode(photo()))


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            add(archive, name, data)


def write_bad_tar(path: Path) -> dict[str, str | None]:
    """A tar of every bad file, of `../`, absolute, repeated and undecodable names, cut within its last member.

    Returns the end of each image_id (after ``<tar>/``; empty: the tar itself) -> the reason, or None.
    """
    members = [(name, data) for name, (data, _) in files().items()]
    members += [
        ("../escape.jpg", encode(photo(6))),
        ("/etc/absolute.jpg", encode(photo(7))),
        ("good.jpg", encode(photo(8))),
        (os.fsdecode(b"caf\xe9.jpg"), encode(photo(9))),
    ]
    write_tar(path, [*members, ("last.jpg", encode(photo(10, 640, 480)))])
    with tarfile.open(path) as archive:
        cut = archive.getmember("last.jpg").offset_data + 3000
    os.truncate(path, cut)
    expected = {name: reason for name, (_, reason) in files().items()}
    return {
        **expected,
        "../escape.jpg": "unsafe_name",
        "etc/absolute.jpg": "unsafe_name",
        "good.jpg#2": "duplicate_name",
        "caf\ufffd.jpg": "undecodable_name",
        "": "truncated_archive",
    }
