"""Encoded bytes to upright RGB pixels and back, and the evaluation view of them.

Formats: JPEG, PNG, WebP, BMP and GIF (its first frame); everything else is ``not_an_image``. JPEG, nearly all of any
pool, goes through OpenCV; the rest, and CMYK, through Pillow. What is transparent is composited on white, since the
colour under full transparency is whatever the encoder left there. 16-bit samples keep their high byte. EXIF
orientation is applied; colour profiles are not. Damaged or large metadata in a PNG or WebP costs no picture.

Both libraries fill what a truncated JPEG lacks with grey and say nothing, so its completeness is read off the markers
(ITU-T T.81, annex B) before decoding. A JPEG whose bytes were altered in between is decoded as its decoder can.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from ssld_pipeline.errors import BadImage
from ssld_pipeline.kernels.image_repair import PNG_SIGNATURE, repaired, with_true_size

MIN_SIDE_PX = 8
MAX_PIXELS = 200_000_000

Pixels = npt.NDArray[np.uint8]

# Our own limit is checked from the header; Pillow's would warn on stderr at 89 million pixels and raise at 179.
PillowImage.MAX_IMAGE_PIXELS = None

_FORMATS = ("PNG", "WEBP", "BMP", "GIF", "JPEG")
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_MAX_GAP_BYTES = 64 * 1024
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_ORIENTATION_TAG = 0x0112
_LIMITS = ("too_many_pixels", "too_small")
_PILLOW_FAILURES = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, struct.error)


class Image(NamedTuple):
    """``pixels``: uint8 HxWx3 RGB, upright. ``width``, ``height``: of the upright source, before reduced decoding."""

    pixels: Pixels
    width: int
    height: int


class _JpegHeader(NamedTuple):
    width: int
    height: int
    num_components: int
    orientation: int


def decode(data: bytes, *, min_short_side: int | None = None) -> Image:
    """The upright RGB picture; raises BadImage with a reason of ``contracts.REJECT_REASONS``.

    ``min_short_side`` (pixels) allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, inside the inverse DCT, as
    long as its short side stays at least that long.
    """
    if not data:
        raise BadImage("empty_file")
    if data.startswith(_JPEG_SIGNATURE):
        return _decode_jpeg(data, min_short_side)
    if data.startswith(PNG_SIGNATURE):
        _require_complete_png(data)
    elif data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        whole = with_true_size(data)
        if whole is None:
            raise BadImage("truncated_image", f"{len(data)} bytes, fewer than the RIFF header announces")
        data = whole
    elif _JPEG_SIGNATURE.startswith(data) or PNG_SIGNATURE.startswith(data):
        raise BadImage("truncated_image", f"{len(data)} bytes")
    return _decode_with_pillow(data)


def encode_jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    """The JPEG file of uint8 HxWx3 RGB ``pixels``; ``quality`` on libjpeg's scale."""
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def center_crop_box(width: int, height: int, image_size: int, crop_pct: float) -> tuple[float, float, float, float]:
    """(left, top, width, height) of the evaluation view in source pixels.

    The short side is resized to round(image_size / crop_pct) and the centre image_size x image_size is cut out, at the
    whole-pixel position torchvision's CenterCrop takes.
    """
    short = round(image_size / crop_pct)
    if width <= height:
        resized_width, resized_height = short, int(short * height / width)
    else:
        resized_width, resized_height = int(short * width / height), short
    scale_x, scale_y = width / resized_width, height / resized_height
    left = round((resized_width - image_size) / 2) * scale_x
    top = round((resized_height - image_size) / 2) * scale_y
    return left, top, image_size * scale_x, image_size * scale_y


def evaluation_view(pixels: Pixels, image_size: int, crop_pct: float) -> Pixels:
    """uint8 SxSx3: short side to round(image_size / crop_pct), centre crop; bilinear with antialias."""
    height, width = pixels.shape[:2]
    left, top, box_width, box_height = center_crop_box(width, height, image_size, crop_pct)
    box = (left, top, min(left + box_width, width), min(top + box_height, height))
    view = PillowImage.fromarray(pixels).resize((image_size, image_size), PillowImage.Resampling.BILINEAR, box=box)
    return np.array(view)


def _decode_jpeg(data: bytes, min_short_side: int | None) -> Image:
    header = _read_jpeg_header(data)
    _require_size(header.width, header.height)
    if header.num_components not in (1, 3):
        return _decode_with_pillow(data)
    # IMREAD_REDUCED_GRAYSCALE_n is the bare scale bit; IMREAD_REDUCED_COLOR_n would add "BGR" to it.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _reduction(header, min_short_side)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadImage("corrupt_image", str(error).strip()) from None
    if pixels is None:
        raise BadImage("corrupt_image", "the JPEG decoder refused it")
    upright = _turn_upright(pixels, header.orientation)
    width, height = header.width, header.height
    return Image(upright, height, width) if header.orientation >= 5 else Image(upright, width, height)


def _reduction(header: _JpegHeader, min_short_side: int | None) -> int:
    short = min(header.width, header.height)
    for divisor, flag in (
        (8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        (4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
        (2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    ):
        if min_short_side is not None and -(-short // divisor) >= min_short_side:
            return int(flag)
    return 0


def _turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (1 to 8; TIFF 6.0, tag 274)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _read_jpeg_header(data: bytes) -> _JpegHeader:
    """Size and orientation; raises BadImage unless the end-of-image marker follows the first scan."""
    frame: tuple[int, int, int] | None = None
    orientation = 0
    for marker, start, end in _segments(data):
        if marker == _SOS:
            if frame is None:
                raise BadImage("corrupt_image", "a scan before its frame header")
            # Within entropy-coded data FF is always followed by 00 or a restart marker, so this is the image's own end
            # and neither that of an embedded thumbnail nor that of something appended.
            if data.find(b"\xff\xd9", end) < 0:
                raise BadImage("truncated_image", "no end-of-image marker")
            return _JpegHeader(*frame, orientation or 1)
        if marker in _SOF and frame is None:
            if end - start < 6:
                raise BadImage("corrupt_image", "short frame header")
            height, width, num_components = struct.unpack_from(">xHHB", data, start)
            frame = (width, height, num_components)
        elif marker == _APP1 and not orientation and data.startswith(b"Exif\x00", start):
            orientation = _exif_orientation(data[start:end])
    raise BadImage("corrupt_image", "end-of-image marker before any scan")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment's payload up to the first end-of-image marker."""
    position = 2
    while True:
        marker_at = data.find(b"\xff", position, position + _MAX_GAP_BYTES)
        if marker_at < 0 and position + _MAX_GAP_BYTES < len(data):
            raise BadImage("corrupt_image", f"no marker after byte {position}")
        if marker_at < 0 or marker_at + 4 > len(data):
            raise BadImage("truncated_image", "the header ends early")
        marker = data[marker_at + 1]
        if marker == _EOI:
            return
        if marker in (0x00, 0xFF) or marker in _ALONE:
            position = marker_at + (1 if marker == 0xFF else 2)
            continue
        length = int.from_bytes(data[marker_at + 2 : marker_at + 4], "big")
        start, end = marker_at + 4, marker_at + 2 + length
        if length < 2:
            raise BadImage("corrupt_image", f"segment of length {length}")
        if end > len(data):
            raise BadImage("truncated_image", "the header ends early")
        yield marker, start, end
        position = end


def _exif_orientation(payload: bytes) -> int:
    def load() -> PillowImage.Exif:
        exif = PillowImage.Exif()
        exif.load(payload)
        return exif

    return _orientation_of(load)


def _orientation_of(load: Callable[[], PillowImage.Exif]) -> int:
    try:
        orientation = load().get(_ORIENTATION_TAG, 1)
    except _PILLOW_FAILURES:
        return 1  # unreadable EXIF says nothing about the pixels
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _require_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage("too_many_pixels", f"{width} x {height} pixels, limit {MAX_PIXELS}")
    if min(width, height) < MIN_SIDE_PX:
        raise BadImage("too_small", f"{width} x {height} pixels, limit {MIN_SIDE_PX}")


def _require_complete_png(data: bytes) -> None:
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if kind == b"IEND":
            return
    raise BadImage("truncated_image", "no IEND chunk")


def _decode_with_pillow(data: bytes) -> Image:
    try:
        return _open_with_pillow(data)
    except BadImage as bad:
        if bad.reason in _LIMITS:
            raise
        for variant in repaired(data):
            try:
                return _open_with_pillow(variant)
            except BadImage as again:
                if again.reason in _LIMITS:
                    raise
        raise


def _open_with_pillow(data: bytes) -> Image:
    try:
        source = PillowImage.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise BadImage("not_an_image", f"begins with {data[:16]!r}") from None
    except _PILLOW_FAILURES as error:
        raise BadImage("corrupt_image", str(error)) from None
    with source:
        _require_size(source.width, source.height)
        try:
            source.load()
            pixels = _upright(source)
        except _PILLOW_FAILURES as error:
            truncated = "truncated" in str(error).lower()
            raise BadImage("truncated_image" if truncated else "corrupt_image", str(error)) from None
    return Image(pixels, pixels.shape[1], pixels.shape[0])


def _upright(source: PillowImage.Image) -> Pixels:
    """RGB pixels of a loaded picture. Pillow cannot turn it where other tags of its EXIF are unreadable."""
    try:
        return np.array(_as_rgb(ImageOps.exif_transpose(source)))
    except _PILLOW_FAILURES:
        return _turn_upright(np.array(_as_rgb(source)), _orientation_of(source.getexif))


def _as_rgb(source: PillowImage.Image) -> PillowImage.Image:
    if source.mode.startswith("I"):
        return PillowImage.fromarray((np.asarray(source).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if not source.has_transparency_data:
        return source.convert("RGB")
    layer = source.convert("RGBA")
    return PillowImage.alpha_composite(PillowImage.new("RGBA", layer.size, "white"), layer).convert("RGB")
