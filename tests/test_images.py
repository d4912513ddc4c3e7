"""Decoding against Pillow and by formula; every kind of broken bytes; the evaluation view against Pillow's resize."""

from __future__ import annotations

import io
import resource
import time

import bad_inputs
import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ssld_pipeline.contracts import REJECT_REASONS
from ssld_pipeline.errors import BadImage
from ssld_pipeline.kernels.images import center_crop_box, decode, evaluation_view

PHOTO = bad_inputs.photo()


def reason(data: bytes) -> str | None:
    try:
        decode(data)
    except BadImage as error:
        assert error.reason in REJECT_REASONS
        return error.reason
    return None


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("name", bad_inputs.files())
def test_each_planted_file_leads_to_its_reason(name: str) -> None:
    data, expected = bad_inputs.files()[name]
    assert reason(data) == expected


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
def test_a_jpeg_cut_at_any_point_is_truncated(options: dict[str, object]) -> None:
    thumbnail = bad_inputs.encode(bad_inputs.photo(1, 32, 24))
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00" + thumbnail
    data = bad_inputs.encode(PHOTO, exif=exif, **options)
    assert data.count(b"\xff\xd9") >= 2
    assert difference(decode(data).pixels, pillow(data)) < 1
    cuts = {1, 2, 3, 4, 20, len(data) - 1, len(data) - 2, *range(5, len(data), 97)}
    assert {reason(data[:cut]) for cut in cuts} == {"truncated_image"}


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "WEBP"])
def test_other_formats_are_whole_or_rejected(format: str) -> None:
    data = bad_inputs.encode(PHOTO, format)
    assert reason(data) is None
    found = {reason(data[:cut]) for cut in range(1, len(data) - 2, len(data) // 60)}
    assert found <= {"truncated_image", "corrupt_image", "not_an_image"}
    assert reason(data[: len(data) // 2]) == "truncated_image"


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"<html>", b"\xff\xd8\xff\xe0", bad_inputs.encode(PHOTO[:40])])
def test_what_follows_a_whole_jpeg_does_not_matter(tail: bytes) -> None:
    data = bad_inputs.encode(PHOTO)
    np.testing.assert_array_equal(decode(data + tail).pixels, decode(data).pixels)


def test_zeros_in_place_of_the_rest_are_a_truncation() -> None:
    data = bad_inputs.encode(PHOTO)
    assert reason(data[: len(data) // 2] + bytes(len(data) - len(data) // 2)) == "truncated_image"


@pytest.mark.parametrize("bomb", [bad_inputs.png_bomb, bad_inputs.jpeg_bomb])
def test_a_bomb_costs_neither_time_nor_memory(bomb) -> None:
    data = bomb()
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert reason(data) == "too_many_pixels"
    assert time.monotonic() - started < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_sides_below_the_limit_are_too_small() -> None:
    assert reason(bad_inputs.encode(PHOTO[:1], "PNG")) == "too_small"
    assert reason(bad_inputs.encode(PHOTO[:7])) == "too_small"
    assert reason(bad_inputs.encode(PHOTO[:8])) is None


def test_broken_bytes_never_raise_anything_but_bad_image() -> None:
    rng = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        data = bad_inputs.encode(bad_inputs.photo(1, 48, 40), format)
        for _ in range(60):
            broken = bytearray(data)
            for _ in range(rng.integers(1, 6)):
                broken[rng.integers(2, len(data))] = rng.integers(0, 256)
            reason(bytes(broken))


def test_a_damaged_png_is_corrupt() -> None:
    data = bytearray(bad_inputs.encode(PHOTO, "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)) == "corrupt_image"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("min_short_side", [None, 30])
def test_every_orientation_is_turned_upright(orientation: int, min_short_side: int | None) -> None:
    data = bad_inputs.with_orientation(PHOTO, orientation)
    expected = pillow(data)
    image = decode(data, min_short_side=min_short_side)
    assert (image.height, image.width) == expected.shape[:2]
    smaller = cv2.resize(expected, image.pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert difference(image.pixels, smaller) < 2
    assert min_short_side is None or min(image.pixels.shape[:2]) == 30


def test_reduced_decoding_keeps_the_short_side() -> None:
    data = bad_inputs.encode(bad_inputs.photo(0, 401, 301))
    for wanted, side in ((302, 301), (301, 301), (151, 151), (152, 301), (76, 76), (38, 38), (1, 38)):
        image = decode(data, min_short_side=wanted)
        assert (min(image.pixels.shape[:2]), image.width, image.height) == (side, 401, 301)


def test_grey_cmyk_and_ycck_have_pillows_colours() -> None:
    picture = Image.fromarray(PHOTO)
    cmyk = bad_inputs.encode(picture.convert("CMYK"), quality=95)
    assert difference(decode(cmyk).pixels, PHOTO) < 3
    at = cmyk.index(b"Adobe")
    assert cmyk[at + 11] == 0
    ycck = cmyk[: at + 11] + b"\x02" + cmyk[at + 12 :]  # the same coefficients, read as YCCK
    opencv = cv2.cvtColor(cv2.imdecode(np.frombuffer(ycck, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert difference(decode(ycck).pixels, opencv) < 2
    grey = bad_inputs.encode(picture.convert("L"), quality=95)
    assert difference(decode(grey).pixels, np.asarray(picture.convert("L").convert("RGB"))) < 2


def test_png_modes_become_eight_bit_rgb() -> None:
    values = PHOTO[..., 0]
    grey16 = bad_inputs.encode(Image.fromarray(values.astype(np.uint16) * 257), "PNG")
    np.testing.assert_array_equal(decode(grey16).pixels, np.repeat(values[..., None], 3, 2))
    colour16 = cv2.imencode(".png", PHOTO[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode(colour16).pixels, PHOTO)
    palette = Image.fromarray(PHOTO).quantize(32)
    np.testing.assert_array_equal(decode(bad_inputs.encode(palette, "PNG")).pixels, np.asarray(palette.convert("RGB")))
    bilevel = Image.fromarray(values > 128)
    np.testing.assert_array_equal(decode(bad_inputs.encode(bilevel, "PNG")).pixels[..., 1], (values > 128) * 255)


def test_transparency_is_composited_on_white() -> None:
    alpha = np.zeros(PHOTO.shape[:2], np.uint8)
    alpha[:, 80:] = 255
    pixels = decode(bad_inputs.encode(np.dstack([PHOTO, alpha]), "PNG")).pixels
    assert (pixels[:, :80] == 255).all()
    np.testing.assert_array_equal(pixels[:, 80:], PHOTO[:, 80:])


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (300, 300), (97, 211), (1200, 250)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_the_evaluation_view_is_resize_then_centre_crop(size: tuple[int, int], crop_pct: float) -> None:
    pixels = bad_inputs.photo(2, *size)
    short = round(224 / crop_pct)
    whole = tuple(short if side == min(size) else int(side * short / min(size)) for side in size)
    resized = Image.fromarray(pixels).resize(whole, Image.Resampling.BILINEAR)
    left, top = round((whole[0] - 224) / 2), round((whole[1] - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)))
    assert difference(evaluation_view(pixels, 224, crop_pct), expected) < 0.5


def test_the_crop_box_is_where_a_planted_square_is_seen() -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    left, top, width, height = center_crop_box(400, 300, 224, 0.875)
    assert left >= 0 and top >= 0 and left + width <= 400 and top + height <= 300
    pixels[round(top) : round(top + height / 2), round(left) : round(left + width / 2)] = 255
    view = evaluation_view(pixels, 224, 0.875)
    assert (view[4:108, 4:108] == 255).all()
    assert (view[116:] == 0).all() and (view[:, 116:] == 0).all()


def test_bad_bytes_are_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    for data, _ in bad_inputs.files().values():
        reason(data)
    assert capfd.readouterr() == ("", "")
