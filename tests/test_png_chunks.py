"""Pictures with damaged or large metadata are decoded as their pixels; limits and truncation still hold."""

from __future__ import annotations

import io
import struct
import zlib

import bad_inputs
import numpy as np
import pytest
from PIL import Image

from ssld_pipeline.errors import BadImage
from ssld_pipeline.kernels.images import decode

PHOTO = bad_inputs.photo()
PNG = bad_inputs.encode(PHOTO, "PNG")
WEBP = bad_inputs.encode(PHOTO, "WEBP", lossless=True)
HEADER_END = 8 + 25  # signature, IHDR
LARGE = zlib.compress(bytes(2_000_000))
MANY = b"".join(bad_inputs.png_chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(bytes(1_000_000))) for i in range(70))


def reason(data: bytes) -> str:
    with pytest.raises(BadImage) as bad_image:
        decode(data)
    return bad_image.value.reason


def with_chunks(chunks: bytes, data: bytes = PNG) -> bytes:
    return data[:HEADER_END] + chunks + data[HEADER_END:]


def at_the_end(chunks: bytes) -> bytes:
    return PNG[:-12] + chunks + PNG[-12:]


def wrong_crc(kind: bytes, payload: bytes) -> bytes:
    chunk = bad_inputs.png_chunk(kind, payload)
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


CHUNKS = {
    "large colour profile": bad_inputs.png_chunk(b"iCCP", b"CMYK\0\0" + LARGE),
    "large compressed text": bad_inputs.png_chunk(b"zTXt", b"workflow\0\0" + LARGE),
    "large international text": bad_inputs.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
    "70 MB of text": MANY,
    "short gAMA": bad_inputs.png_chunk(b"gAMA", b"\0"),
    "short cHRM": bad_inputs.png_chunk(b"cHRM", b"\0"),
    "short pHYs": bad_inputs.png_chunk(b"pHYs", b"\0\0"),
    "short tIME": bad_inputs.png_chunk(b"tIME", b"\0"),
    "short acTL": bad_inputs.png_chunk(b"acTL", b"\0"),
    "short fcTL": bad_inputs.png_chunk(b"acTL", struct.pack(">II", 2, 0)) + bad_inputs.png_chunk(b"fcTL", b"\0"),
    "eXIf that is none": bad_inputs.png_chunk(b"eXIf", b"garbage"),
    "short sRGB": bad_inputs.png_chunk(b"sRGB", b""),
    "unknown chunk": bad_inputs.png_chunk(b"npTc", bytes(40)),
    **{
        f"wrong checksum in {kind.decode()}": wrong_crc(kind, payload)
        for kind, payload in (
            (b"tEXt", b"Comment\0hello"),
            (b"iCCP", b"x\0\0" + zlib.compress(b"hello")),
            (b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
            (b"tIME", bytes(7)),
            (b"tRNS", bytes(6)),
        )
    },
}


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("place", [with_chunks, at_the_end])
def test_damaged_or_large_ancillary_chunks_cost_no_picture(name: str, place) -> None:
    np.testing.assert_array_equal(decode(place(CHUNKS[name])).pixels, PHOTO)


def test_a_picture_is_turned_although_other_metadata_is_damaged() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = bad_inputs.encode(PHOTO, "PNG", exif=exif)
    expected = decode(turned).pixels
    assert expected.shape == (160, 120, 3)
    np.testing.assert_array_equal(decode(with_chunks(CHUNKS["large colour profile"], turned)).pixels, expected)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_unreadable_tags_do_not_hide_the_orientation(format: str) -> None:
    """Tag 0x9000 says that its value is at the end of a file of 4 GB."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x9000, 7, 90, 0xFFFFFF00)
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(4)
    data = bad_inputs.encode(PHOTO, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    np.testing.assert_array_equal(decode(data).pixels, np.rot90(PHOTO, 3))


@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0garbage", b"II*\0\xff\xff\xff\x7f", b"II*\0\x08\0\0\0\xff\xff"])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_unreadable_exif_costs_no_picture(format: str, exif: bytes) -> None:
    data = bad_inputs.encode(PHOTO, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    np.testing.assert_array_equal(decode(data).pixels, PHOTO)


def test_transparency_survives_the_second_attempt() -> None:
    alpha = np.zeros(PHOTO.shape[:2], np.uint8)
    alpha[:, 80:] = 255
    data = bad_inputs.encode(np.dstack([PHOTO, alpha]), "PNG")
    np.testing.assert_array_equal(decode(with_chunks(CHUNKS["short gAMA"], data)).pixels, decode(data).pixels)
    palette = bad_inputs.encode(Image.fromarray(PHOTO).quantize(16), "PNG", transparency=3)
    spoilt = with_chunks(CHUNKS["short pHYs"], palette)
    np.testing.assert_array_equal(decode(spoilt).pixels, decode(palette).pixels)


def test_a_lost_palette_is_no_picture_of_other_colours() -> None:
    data = bad_inputs.encode(Image.fromarray(PHOTO).quantize(16), "PNG")
    at = data.index(b"PLTE")
    assert reason(data[:at] + b"pLTE" + data[at + 4 :]) in ("corrupt_image", "not_an_image")


def test_limits_hold_for_the_second_attempt() -> None:
    assert reason(with_chunks(CHUNKS["short gAMA"], bad_inputs.png_bomb())) == "too_many_pixels"
    small = bad_inputs.encode(PHOTO[:4], "PNG")
    assert reason(with_chunks(CHUNKS["short gAMA"], small)) in ("too_small", "corrupt_image")


def test_damaged_pixels_stay_corrupt() -> None:
    data = bytearray(with_chunks(CHUNKS["short gAMA"]))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)) == "corrupt_image"


@pytest.mark.parametrize(
    "payload", [b"\xe0JFIF", b"\xe0JFIF\0\1", b"\xe2ICC_PROFILE\0", b"\xeeAdobe", b"\xe1Exif\0\0II*"]
)
def test_short_segments_cost_no_cmyk_jpeg(payload: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bad_inputs.encode(Image.fromarray(PHOTO).convert("CMYK"), quality=95, exif=exif)
    segment = b"\xff" + payload[:1] + struct.pack(">H", len(payload) + 1) + payload[1:]
    expected = decode(data).pixels
    assert expected.shape == (160, 120, 3)
    found = decode(data[:2] + segment + data[2:]).pixels
    np.testing.assert_array_equal(found, expected if b"Exif" not in payload else np.rot90(expected))


def resized(data: bytes, size: int) -> bytes:
    return data[:4] + struct.pack("<I", size) + data[8:]


@pytest.mark.parametrize("off", [-9, -2, -1, 1, 2, 7, 100_000])
@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 90}, {"quality": 90, "exif": b"garbage"}])
def test_a_wrong_length_in_the_riff_header_costs_no_picture(off: int, options: dict[str, object]) -> None:
    data = bad_inputs.encode(PHOTO, "WEBP", **options)
    spoilt = resized(data, len(data) - 8 + off)
    np.testing.assert_array_equal(decode(spoilt).pixels, decode(data).pixels)


def test_a_missing_pad_byte_costs_no_picture() -> None:
    """Of a chunk of odd length: some writers forget the byte, and count it."""
    odd = bad_inputs.encode(PHOTO, "WEBP", quality=90, exif=b"garbage")
    assert odd.endswith(b"garbage\0")
    np.testing.assert_array_equal(decode(odd[:-1]).pixels, decode(odd).pixels)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
@pytest.mark.parametrize("announced", [True, False])
def test_a_webp_that_is_cut_stays_truncated(share: float, announced: bool) -> None:
    cut = WEBP[: int(len(WEBP) * share)]
    assert reason(cut if announced else resized(cut, len(cut) - 8)) in ("truncated_image", "corrupt_image")
    assert not announced or reason(cut) == "truncated_image"


def test_a_webp_that_is_cut_before_its_orientation_is_truncated() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bad_inputs.encode(PHOTO, "WEBP", quality=90, exif=exif)
    assert decode(data).pixels.shape == (160, 120, 3)
    assert reason(data[: data.index(b"EXIF")]) == "truncated_image"


def test_animations_give_their_first_picture() -> None:
    frames = [Image.fromarray(PHOTO), Image.fromarray(PHOTO[::-1].copy())]
    for format in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        options = {"lossless": True} if format == "WEBP" else {}
        frames[0].save(buffer, format, save_all=True, append_images=frames[1:], **options)
        data = buffer.getvalue()
        spoilt = resized(data, len(data)) if format == "WEBP" else with_chunks(CHUNKS["short gAMA"], data)
        np.testing.assert_array_equal(decode(spoilt).pixels, decode(data).pixels)
