"""Image files without the parts that carry no pixels: what to decode after a decoder has refused the file itself.

Decoders refuse a whole picture for a damaged comment, a large colour profile or a wrong length in the file header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_SOS, _APP1, _APP14, _COM = 0xDA, 0xE1, 0xEE, 0xFE
_JPEG_METADATA = frozenset({*range(0xE0, 0xF0), _COM})
_ADOBE_BYTES = 16
_PALETTE_COLOUR_TYPE = 3
_WEBP_PICTURE = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF")
_WEBP_CHUNKS = (*_WEBP_PICTURE, b"VP8X", b"ANIM", b"ICCP", b"EXIF", b"XMP ")
_WEBP_HAS_EXIF = 0x08


def repaired(data: bytes) -> Iterator[bytes]:
    """Variants of a PNG, WebP or JPEG file with the same pixels, the most faithful first; none for other formats."""
    if data.startswith(PNG_SIGNATURE):
        yield from _essential_png(data)
    elif data.startswith(b"\xff\xd8"):
        yield from _essential_jpeg(data)
    elif (whole := with_true_size(data)) is not None:
        yield whole


def _essential_png(data: bytes) -> Iterator[bytes]:
    """First with tRNS and the chunks that tell the orientation, which change pixels; then without the latter, then
    without either."""
    chunks = list(_png_chunks(data))
    kinds = [kind for kind, _ in chunks]
    if kinds[:1] != [b"IHDR"] or (data[25] == _PALETTE_COLOUR_TYPE and b"PLTE" not in kinds):
        return
    given: bytes = data
    for keeps in (lambda kind, chunk: kind == b"tRNS" or _may_turn(chunk), lambda kind, _: kind == b"tRNS", _never):
        variant = PNG_SIGNATURE + b"".join(c for kind, c in chunks if not _is_ancillary(kind) or keeps(kind, c))
        if variant != given:
            yield variant
        given = variant


def _never(_kind: bytes, _chunk: bytes) -> bool:
    return False


def _may_turn(chunk: bytes) -> bool:
    return chunk.startswith((b"eXIf", b"iTXtXML:com.adobe.xmp\0", b"tEXtRaw profile", b"zTXtRaw profile"), 4)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, whole chunk) up to IEND."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, data[position : position + 12 + length]
        if kind == b"IEND":
            return
        position += 12 + length


def _is_ancillary(kind: bytes) -> bool:
    return bool(kind[0] & 0x20)  # PNG specification, section 5.4: bit 5 of the first byte


def _essential_jpeg(data: bytes) -> Iterator[bytes]:
    """First with the EXIF segment, which may tell the orientation, then without. Adobe's segment tells the colours."""
    segments = [(m, s) for m, s in _jpeg_segments(data) if m != _APP14 or len(s) >= _ADOBE_BYTES]
    if not segments or segments[-1][0] != _SOS:
        return
    for keeps in ((_APP1, _APP14), (_APP14,)):
        yield data[:2] + b"".join(s for marker, s in segments if marker not in _JPEG_METADATA or marker in keeps)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, whole segment) up to the first scan, which has all that follows."""
    position = 2
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        end = len(data) if marker == _SOS else position + 2 + length
        yield marker, data[position:end]
        position = end


def with_true_size(data: bytes) -> bytes | None:
    """A WebP file whose header announces the length of its chunks; None where the picture is not whole.

    An EXIF chunk that is announced but missing counts as not whole: the picture may have to be turned.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    chunks: dict[bytes, bytes] = {}
    body = b""
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        payload = data[position + 8 : position + 8 + length]
        if len(payload) < length:
            if kind in _WEBP_PICTURE:
                return None
            break
        if kind in _WEBP_CHUNKS:
            chunks.setdefault(kind, payload)
            body += struct.pack("<4sI", kind, length) + payload + bytes(length % 2)
        position += 8 + length + length % 2
    flags = chunks.get(b"VP8X", b"\0")[:1]
    lacks_exif = bool(flags and flags[0] & _WEBP_HAS_EXIF) and b"EXIF" not in chunks
    if lacks_exif or not chunks.keys() & {b"VP8 ", b"VP8L", b"ANMF"}:
        return None
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
