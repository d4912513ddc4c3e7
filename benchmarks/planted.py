"""Writes a set for measuring the detection of copies: protected pictures, and a pool of copies and of no copies.

    python benchmarks/planted.py --photos DIR --negatives DIR --out FOLDER [--num-copies 4500] [--seed 0]

FOLDER/protected and FOLDER/pool hold JPEG files; truth.csv has a row per pool image: image, tier, kind, severity,
original of a copy, or the kind of negative. DIRs hold pictures or tars of them, at any depth. A tier says how much is
left of the original: easy, the same picture at a glance; medium, plainly altered; hard, much of it lost or covered;
extreme, a person still finds it, with a second look. The same arguments and seed give the same files.
"""

from __future__ import annotations

import argparse
import csv
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], blue green red."""
Color = tuple[int, int, int]

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
TIERS = ("easy", "medium", "hard", "extreme")
PAGE_WIDTH, PAGE_HEIGHT = 340, 440
FRAME_SEEDS = WATERMARK_SEEDS = SCREEN_SEEDS = (1, 2)
LOGO_SEED = 77


# Photographs


@dataclass(frozen=True)
class Photos:
    """Photographs that are read when asked for; ``places``: file, offset, bytes."""

    places: tuple[tuple[str, int, int], ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Pixels:
        path, offset, num_bytes = self.places[number]
        with Path(path).open("rb") as file:
            file.seek(offset)
            image = cv2.imdecode(np.frombuffer(file.read(num_bytes), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{path} at {offset}: no picture that OpenCV reads")
        return np.asarray(image, np.uint8)

    def part(self, numbers: slice) -> Photos:
        return Photos(self.places[numbers])


def find_photos(folders: Sequence[Path], rng: np.random.Generator) -> Photos:
    """Every picture below the folders, and in the tars there, in an order drawn by ``rng``."""
    places: list[tuple[str, int, int]] = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.suffix.lower() in PICTURES:
            places.append((str(path), 0, path.stat().st_size))
        elif path.suffix.lower() == ".tar":
            with tarfile.open(path) as tar:
                members = [m for m in tar if m.isfile() and m.name.lower().endswith(PICTURES)]
            places += [(str(path), m.offset_data, m.size) for m in members]
    return Photos(tuple(places[i] for i in rng.permutation(len(places))))


@dataclass(frozen=True)
class Draw:
    """What an alteration draws on: chance, and photographs of which none is protected."""

    rng: np.random.Generator
    others: Photos

    def other(self) -> Pixels:
        return self.others[int(self.rng.integers(len(self.others)))]

    def sign(self) -> int:
        return int(self.rng.choice([-1, 1]))

    def color(self, low: int = 0, high: int = 256) -> Color:
        blue, green, red = self.rng.integers(low, high, 3).tolist()
        return blue, green, red


Alter = Callable[[Pixels, Draw], Pixels]


def chain(*steps: Alter) -> Alter:
    def alter(image: Pixels, draw: Draw) -> Pixels:
        for step in steps:
            image = np.ascontiguousarray(step(image, draw))
        return image

    return alter


# Size and compression


def resized(image: Pixels, width: float, height: float) -> Pixels:
    size = max(8, round(width)), max(8, round(height))
    shrinks = size[0] < image.shape[1]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


def filled(image: Pixels, width: int, height: int) -> Pixels:
    """The middle of the image, so scaled that it fills the size."""
    scale = max(width / image.shape[1], height / image.shape[0])
    big = resized(image, max(width, image.shape[1] * scale), max(height, image.shape[0] * scale))
    top, left = (big.shape[0] - height) // 2, (big.shape[1] - width) // 2
    return big[top : top + height, left : left + width]


def scaled(factor: float) -> Alter:
    return lambda image, draw: resized(image, image.shape[1] * factor, image.shape[0] * factor)


def thumbnail(longer_side: int) -> Alter:
    return lambda image, draw: scaled(longer_side / max(image.shape))(image, draw)


def stretch(factor: float) -> Alter:
    """Wider, or higher, by ``factor``."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        power = draw.sign() / 2
        return resized(image, image.shape[1] * factor**power, image.shape[0] * factor**-power)

    return alter


def compress(extension: str, quality: int) -> Alter:
    flag = cv2.IMWRITE_WEBP_QUALITY if extension == ".webp" else cv2.IMWRITE_JPEG_QUALITY

    def alter(image: Pixels, draw: Draw) -> Pixels:
        data = cv2.imencode(extension, image, [flag, quality])[1]
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)

    return alter


def jpeg(quality: int) -> Alter:
    return compress(".jpg", quality)


def webp(quality: int) -> Alter:
    return compress(".webp", quality)


# Geometry


def crop(share: float) -> Alter:
    """A crop of this share of the area, anywhere, but not where there is next to nothing to be seen."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        tilt = draw.rng.uniform(0.9, 1.1)
        height, width = (min(n, round(n * share**0.5 * t)) for n, t in zip(image.shape, (tilt, 1 / tilt), strict=False))
        for _ in range(8):
            top, left = draw.rng.integers(image.shape[0] - height + 1), draw.rng.integers(image.shape[1] - width + 1)
            part = image[top : top + height, left : left + width]
            if part.std() > 0.75 * image.std():
                break
        return part

    return alter


def crop_back(share: float) -> Alter:
    """A crop, stretched to the size of the whole."""
    return lambda image, draw: resized(crop(share)(image, draw), image.shape[1], image.shape[0])


def mirror(image: Pixels, draw: Draw) -> Pixels:
    return image[:, ::-1]


def upside_down(image: Pixels, draw: Draw) -> Pixels:
    return image[::-1, ::-1]


def quarter_turn(image: Pixels, draw: Draw) -> Pixels:
    return np.rot90(image, draw.sign())


def turn(degrees: float, corners: str) -> Alter:
    """Turned about the centre; outside is ``black`` (all is kept), ``reflected``, or ``cut`` by zooming in."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        height, width = image.shape[:2]
        sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
        zoom = cosine + sine * max(width / height, height / width) if corners == "cut" else 1.0
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees * draw.sign(), zoom)
        size = width, height
        if corners == "black":
            size = round(width * cosine + height * sine), round(height * cosine + width * sine)
            matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
        border = cv2.BORDER_CONSTANT if corners == "black" else cv2.BORDER_REFLECT_101
        return np.asarray(cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border))

    return alter


def warped(image: Pixels, corners: npt.NDArray[np.float64], size: tuple[int, int], fill: Color) -> Pixels:
    """The image with its corners, clockwise from the left upper one, at these pixels of a picture of ``size``."""
    height, width = image.shape[:2]
    own = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(own, corners.astype(np.float32))
    return np.asarray(cv2.warpPerspective(image, matrix, size, borderMode=cv2.BORDER_CONSTANT, borderValue=fill))


def perspective(strength: float, outwards: bool = True) -> Alter:
    """Each corner moves by up to ``strength`` of the sides, at least half of that; inwards only, or anywhere."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        height, width = image.shape[:2]
        moves = draw.rng.uniform(0.5 * strength, strength, (4, 2))
        inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        signs = draw.rng.choice([-1, 1], (4, 2)) if outwards else inwards
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + moves * signs
        return warped(image, corners * (width, height), (width, height), draw.color(0, 60))

    return alter


def shear(strength: float) -> Alter:
    def alter(image: Pixels, draw: Draw) -> Pixels:
        height, width = image.shape[:2]
        shift = draw.sign() * strength * height
        matrix = np.array([[1, shift / height, max(0.0, -shift)], [0, 1, 0]])
        return np.asarray(cv2.warpAffine(image, matrix, (width + round(abs(shift)), height)))

    return alter


def lens(strength: float) -> Alter:
    """Barrel or pincushion distortion: the edge of the picture moves by ``strength`` of its distance."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        height, width = image.shape[:2]
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        bend = (1 + draw.sign() * strength * (x**2 + y**2) / 2) / (1 + strength / 2)
        columns, rows = (x * bend + 1) * (width - 1) / 2, (y * bend + 1) * (height - 1) / 2
        return np.asarray(cv2.remap(image, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR))

    return alter


# Tone


def toned(curve: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Alter:
    """Each value v in [0,1] becomes curve(v)."""
    values = np.clip(255 * curve(np.arange(256) / 255), 0, 255).astype(np.uint8)
    return lambda image, draw: values[image]


def gamma(power: float) -> Alter:
    """Darker for powers above 1, yet so that a third of the values stays above .1."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        bright = float(np.quantile(image, 0.67)) / 255
        most = max(1.0, np.log(0.1) / np.log(np.clip(bright, 0.01, 0.99)))
        return toned(lambda v: v ** min(power, most))(image, draw)

    return alter


def contrast(factor: float) -> Alter:
    return toned(lambda v: 0.5 + (v - 0.5) * factor)


def brightness(change: float) -> Alter:
    """Lighter or darker, yet so that a third of the values stays below white or above black."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        dark, bright = np.quantile(image, (0.33, 0.67)) / 255
        return toned(lambda v: v + np.clip(change, -bright, 1 - dark))(image, draw)

    return alter


def posterise(num_levels: int) -> Alter:
    """So many values per colour, spread over those that the picture has."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        low, high = np.quantile(image, (0.03, 0.97)) / 255
        step = max(high - low, 0.1) / (num_levels - 1)
        return toned(lambda v: low + np.round((v - low) / step) * step)(image, draw)

    return alter


def grey(image: Pixels, draw: Draw) -> Pixels:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR))


def recolor(hue_degrees: float, saturation: float) -> Alter:
    def alter(image: Pixels, draw: Draw) -> Pixels:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(np.int32)
        hsv[..., 0] = (hsv[..., 0] + draw.sign() * int(hue_degrees / 2)) % 180
        hsv[..., 1] = np.minimum(255, hsv[..., 1] * saturation)
        return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR))

    return alter


def palette(num_colors: int) -> Alter:
    """So many colours, dithered, as in a GIF."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        few = Image.fromarray(image).quantize(num_colors, Image.Quantize.FASTOCTREE)
        dithered = Image.fromarray(image).quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG)
        return np.asarray(dithered.convert("RGB"))

    return alter


def halftone(pitch_px: float) -> Alter:
    """Each colour as dots of a printer's screen, turned by another angle."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        big = resized(image, 2 * image.shape[1], 2 * image.shape[0])
        y, x = np.mgrid[: big.shape[0], : big.shape[1]].astype(np.float32)
        inks = []
        for channel, degrees in enumerate((15, 45, 75)):
            sine, cosine = (f(np.radians(degrees)) * np.pi / pitch_px for f in (np.sin, np.cos))
            screen = 0.5 + 0.25 * (np.cos(x * cosine + y * sine) + np.cos(y * cosine - x * sine))
            inks.append(np.where(big[..., channel] / 255 > screen, 255, 0).astype(np.uint8))
        return resized(cv2.merge(inks), 1.4 * image.shape[1], 1.4 * image.shape[0])

    return alter


def vignette(strength: float) -> Alter:
    def alter(image: Pixels, draw: Draw) -> Pixels:
        y, x = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j]
        light = 1 - strength * np.minimum(1, (x**2 + y**2) / 2)
        return np.asarray(image * light[..., None], np.uint8)

    return alter


def tone_filter(image: Pixels, draw: Draw) -> Pixels:
    """A look as photo apps have them: a curve per colour, lifted shadows, less saturation, darker corners."""
    values = np.arange(256) / 255
    powers, lifts = draw.rng.uniform(0.7, 1.5, 3), draw.rng.uniform(0, 0.18, 3)
    curves = [np.clip(255 * (v + (1 - v) * values**p), 0, 255) for p, v in zip(powers, lifts, strict=True)]
    table = np.stack(curves, axis=1).astype(np.uint8)[:, None]
    return chain(lambda i, d: np.asarray(cv2.LUT(i, table)), recolor(0, 0.8), vignette(0.45))(image, draw)


# Blur and noise; lengths are for a picture whose longer side is 341 px, and grow with it


def unit(image: Pixels) -> float:
    return float(max(image.shape) / 341)


def blur(sigma: float) -> Alter:
    return lambda image, draw: np.asarray(cv2.GaussianBlur(image, (0, 0), sigma * unit(image)))


def motion_blur(length: float) -> Alter:
    def alter(image: Pixels, draw: Draw) -> Pixels:
        size = round(length * unit(image)) | 1
        kernel, half = np.zeros((size, size), np.float32), size // 2
        angle = draw.rng.uniform(0, np.pi)
        step = round(half * np.cos(angle)), round(half * np.sin(angle))
        cv2.line(kernel, (half - step[0], half - step[1]), (half + step[0], half + step[1]), 1.0)
        return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()))

    return alter


def sharpen(amount: float) -> Alter:
    return lambda image, draw: np.asarray(cv2.addWeighted(image, 1 + amount, blur(1.5)(image, draw), -amount, 0))


def noise(sigma: float) -> Alter:
    def alter(image: Pixels, draw: Draw) -> Pixels:
        grain = draw.rng.standard_normal(image.shape, np.float32) * sigma
        return np.clip(image + grain, 0, 255).astype(np.uint8)

    return alter


def salt_and_pepper(share: float) -> Alter:
    def alter(image: Pixels, draw: Draw) -> Pixels:
        chance, image = draw.rng.random(image.shape[:2], np.float32), image.copy()
        image[chance < share / 2] = 0
        image[chance > 1 - share / 2] = 255
        return image

    return alter


# Writing and drawing over


def words(num_letters: int, rng: np.random.Generator) -> str:
    """Made-up words, about so many letters."""
    text = ""
    while len(text) < num_letters:
        pairs = rng.choice(list("bdfgklmnprstvw"), 3), rng.choice(list("aeiou"), 3)
        text += "".join(a + b for a, b in islice(zip(*pairs, strict=True), int(rng.integers(1, 4)))) + " "
    return text[:num_letters].strip().capitalize()


@dataclass(frozen=True)
class Style:
    size_px: float
    fill: Color
    stroke: Color = (0, 0, 0)
    stroke_px: int = 0


def written(image: Pixels, lines: Sequence[tuple[float, float, str]], style: Style) -> Pixels:
    """Lines (x, y, text) over the image; places in pixels, the left upper corner of each."""
    canvas = Image.fromarray(image)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(6, style.size_px))
    for x, y, text in lines:
        pen.text((x, y), text, style.fill, font, stroke_width=style.stroke_px, stroke_fill=style.stroke)
    return np.array(canvas)


def text_lines(num_lines: int, size: float, bold: bool) -> Alter:
    """Lines over the whole width; ``size`` of the letters as a share of the width."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        height, width = image.shape[:2]
        tops = np.linspace(0.06, 0.92 - size * width / height, num_lines)
        tops = tops if num_lines > 1 else draw.rng.choice([0.05, 0.5, 0.88], 1)
        lines = [(0.04 * width, top * height, words(round(1.6 / size), draw.rng)) for top in tops]
        dark = bool(draw.rng.integers(2))
        fill, stroke = ((20, 20, 20), (240, 240, 240)) if dark else (draw.color(180, 256), (0, 0, 0))
        thickness = max(1, round(size * width / (8 if bold else 16)))
        return written(image, lines, Style(size * width, fill, stroke, thickness))

    return alter


def meme(image: Pixels, draw: Draw) -> Pixels:
    """Large white capitals with a black edge, above and below."""
    height, width = image.shape[:2]
    size = 0.12 * width
    lines = [(0.03 * width, y, words(13, draw.rng).upper()) for y in (0.02 * height, height - 1.3 * size)]
    return written(image, lines, Style(size, (255, 255, 255), (0, 0, 0), max(1, round(size / 8))))


def logo(side: int, rng: np.random.Generator) -> tuple[Pixels, npt.NDArray[np.floating]]:
    """A badge of a shape, a ring, a star and letters, and its opacity [side, side, 1]."""
    big, middle = 192, (96, 96)
    colors = [tuple(c) for c in rng.integers(0, 256, (4, 3)).tolist()]
    image, mask = np.full((big, big, 3), colors[0], np.uint8), np.zeros((big, big), np.uint8)
    if rng.integers(2):
        cv2.circle(mask, middle, 94, 255, -1)
    else:
        cv2.rectangle(mask, (4, 20), (188, 172), 255, -1)
    cv2.circle(image, middle, int(rng.integers(60, 84)), colors[1], int(rng.integers(4, 12)))
    angles = np.arange(10) * np.pi / 5 + rng.uniform(0, 1)
    radii = np.where(np.arange(10) % 2, 26, 58)
    star = np.column_stack((96 + radii * np.cos(angles), 96 + radii * np.sin(angles))).astype(np.int32)
    cv2.fillPoly(image, [star], colors[2])
    image = written(image, [(34, 66, words(5, rng).upper())], Style(46, colors[3], (255, 255, 255), 2))
    return resized(image, side, side), resized(mask, side, side)[..., None].astype(np.float32) / 255


def put_logo(image: Pixels, share: float, seed: int, draw: Draw) -> Pixels:
    """``share`` of the shorter side."""
    side, image = max(12, round(share * min(image.shape[:2]))), image.copy()
    badge, opacity = logo(side, np.random.default_rng(seed))
    top, left = draw.rng.integers(image.shape[0] - side + 1), draw.rng.integers(image.shape[1] - side + 1)
    under = image[top : top + side, left : left + side]
    image[top : top + side, left : left + side] = badge * opacity + under * (1 - opacity)
    return image


def sticker(share: float) -> Alter:
    return lambda image, draw: put_logo(image, share, int(draw.rng.integers(1 << 30)), draw)


def tiled_watermark(image: Pixels, alpha: float, rng: np.random.Generator) -> Pixels:
    """Half transparent words all over the image, on the slant; they depend on ``rng`` and the image's size only."""
    side = round(1.5 * max(image.shape))
    text, size = words(int(rng.integers(6, 13)), rng), rng.uniform(0.045, 0.075) * side
    across, down = size * 0.62 * len(text), size * rng.uniform(1.7, 2.6)
    rows = range(int(side / down) + 1)
    lines = [(x, r * down, text) for r in rows for x in np.arange(-across * (r % 2) / 2, side, across)]
    tile = written(np.zeros((side, side, 3), np.uint8), lines, Style(size, (255, 255, 255), (255, 255, 255), 1))
    slant = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(20, 40), 1)
    tile = cv2.warpAffine(tile, slant, (side, side))
    top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    opacity = tile[top : top + image.shape[0], left : left + image.shape[1], :1] * (alpha / 255)
    return np.asarray(image * (1 - opacity) + 255 * opacity, np.uint8)


def watermark(alpha: float) -> Alter:
    return lambda image, draw: tiled_watermark(image, alpha, draw.rng)


def doodle(num_lines: int) -> Alter:
    """Lines drawn by hand all over."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        image, t = image.copy(), np.linspace(0, 2 * np.pi, 60)
        for _ in range(num_lines):
            a, b, c, d = draw.rng.uniform(0.5, 3.5, 4)
            x, y = np.sin(a * t + b) + 0.5 * np.sin(c * t), np.cos(c * t + d) + 0.5 * np.sin(a * t + d)
            middle, spread = draw.rng.uniform(0.2, 0.8, 2), draw.rng.uniform(0.08, 0.22)
            points = (np.column_stack((x, y)) * spread + middle) * image.shape[1::-1]
            width = int(draw.rng.integers(2, 6) * unit(image)) + 1
            cv2.polylines(image, [points.astype(np.int32)], False, draw.color(), width, cv2.LINE_AA)
        return image

    return alter


def face(side: int) -> Pixels:
    """A smiling face on black."""
    image = np.zeros((128, 128, 3), np.uint8)
    cv2.circle(image, (64, 64), 62, (40, 200, 250), -1, cv2.LINE_AA)
    for x in (42, 86):
        cv2.ellipse(image, (x, 48), (8, 13), 0, 0, 360, (20, 40, 60), -1, cv2.LINE_AA)
    cv2.ellipse(image, (64, 72), (36, 30), 0, 0, 180, (30, 40, 90), -1, cv2.LINE_AA)
    return resized(image, side, side)


def censor(share: float) -> Alter:
    """A region of this share of the area is blurred, made of coarse blocks, black, or under a face."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        image, side = image.copy(), round((share * image.shape[0] * image.shape[1]) ** 0.5)
        side = min(side, *image.shape[:2])
        top, left = draw.rng.integers(image.shape[0] - side + 1), draw.rng.integers(image.shape[1] - side + 1)
        region = image[top : top + side, left : left + side]
        smile = face(side)
        region[:] = (
            cv2.GaussianBlur(region, (0, 0), 9),
            cv2.resize(cv2.resize(region, (6, 6), interpolation=cv2.INTER_AREA), (side, side), interpolation=0),
            np.zeros_like(region),
            np.where(smile.any(axis=2, keepdims=True), smile, region),
        )[draw.rng.integers(4)]
        return image

    return alter


# Around the picture, and the picture within another


def bordered(image: Pixels, sides: Sequence[float], color: Color) -> Pixels:
    """Borders above, below, left and right, in pixels."""
    top, bottom, left, right = (round(side) for side in sides)
    return np.asarray(cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=color))


def pad(share: float) -> Alter:
    """Plain colour on all sides, on each between a half and the whole of ``share`` of the picture's side."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        height, width = image.shape[:2]
        sides = draw.rng.uniform(share / 2, share, 4) * (height, height, width, width)
        return bordered(image, sides.tolist(), draw.color())

    return alter


def letterbox(share: float) -> Alter:
    def alter(image: Pixels, draw: Draw) -> Pixels:
        bar, shade = share * max(image.shape), int(draw.rng.choice([0, 255]))
        sides = (bar, bar, 0, 0) if draw.rng.integers(2) else (0, 0, bar, bar)
        return bordered(image, sides, (shade, shade, shade))

    return alter


def passe_partout(share: float) -> Alter:
    """A thin line, a light mount and a dark frame; together ``share`` of the shorter side on each side."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        side = share * min(image.shape[:2])
        for width, color in ((2, draw.color(0, 90)), (0.7 * side, draw.color(200)), (0.3 * side, draw.color(0, 110))):
            image = bordered(image, (width,) * 4, color)
        return image

    return alter


def blurred_ground(share: float) -> Alter:
    """On its own enlarged, blurred copy, of which the picture takes ``share`` of the longer axis."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        height, width = image.shape[:2]
        ground = blur(12)(filled(image, round(width / share), height), draw)
        left = (ground.shape[1] - width) // 2
        ground[:, left : left + width] = image
        return ground

    return alter


def screen_photo(strength: float) -> Alter:
    """A photograph of a screen: bezel, perspective, moire, blur, a shift of tone, a reflection."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        image = bordered(image, (0.05 * image.shape[0],) * 4, (25, 22, 20))
        image = perspective(0.1 * strength, outwards=False)(image, draw)
        y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
        light = np.ones(image.shape[:2], np.float32)
        for period in draw.rng.uniform(2.5, 9, 2):
            angle = draw.rng.uniform(0, np.pi)
            light += 0.1 * strength * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
        spot = draw.rng.uniform(0.15, 0.85, 2) * image.shape[1::-1]
        distance = ((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (0.22 * max(image.shape)) ** 2
        glare = 110 * strength * np.exp(-distance)
        tint = draw.rng.uniform(0.75, 1.05, 3)
        lit = np.clip(image * light[..., None] * tint + 12 + glare[..., None], 0, 255).astype(np.uint8)
        return chain(blur(0.7 * strength), gamma(1.2), noise(6 * strength))(lit, draw)

    return alter


def screen_page(picture: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """The picture in a page of an application; all but the picture depends on ``rng`` and the picture's shape only."""
    width = 480
    inner = resized(picture, share * width, share * width * picture.shape[0] / picture.shape[1])
    height = inner.shape[0] + int(rng.integers(110, 200))
    dark, accent = bool(rng.integers(2)), tuple(rng.integers(0, 256, 3).tolist())
    ground, ink = ((30, 28, 28), (220, 220, 220)) if dark else ((250, 248, 248), (40, 40, 40))
    page = np.full((height, width, 3), ground, np.uint8)
    cv2.rectangle(page, (0, 0), (width, 34), accent, -1)
    for x in (440, 460):
        cv2.circle(page, (x, 17), 7, ink, -1, cv2.LINE_AA)
    top, left = 44, 10 if rng.integers(2) else width - inner.shape[1] - 10
    page[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    column = 10 if left > 10 else left + inner.shape[1] + 10
    room = width - inner.shape[1] - 30
    beside = [(column, y, words(room // 8, rng)) for y in range(50, inner.shape[0] + 30, 18) if room > 40]
    below = [(12, y, words(50, rng)) for y in range(top + inner.shape[0] + 10, height - 40, 18)]
    for x in range(12, width - 80, 96):
        cv2.rectangle(page, (x, height - 30), (x + 80, height - 8), accent, -1 if x == 12 else 2)
    page = written(page, [(10, 8, words(22, rng))], Style(17, (255, 255, 255), (0, 0, 0), 1))
    buttons = [(x + 8, height - 27, words(7, rng)) for x in range(12, width - 80, 96)]
    return written(page, [*beside, *below, *buttons], Style(12, ink))


def screenshot(share: float) -> Alter:
    return lambda image, draw: screen_page(image, share, draw.rng)


def mosaic(pictures: Sequence[Pixels], num_columns: int, cell: tuple[int, int], gap: int, color: Color) -> Pixels:
    """The pictures, each filling a cell (width, height), in rows."""
    width, height = cell
    num_rows = -(-len(pictures) // num_columns)
    page = np.full((num_rows * (height + gap) + gap, num_columns * (width + gap) + gap, 3), color, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = gap + number // num_columns * (height + gap), gap + number % num_columns * (width + gap)
        page[top : top + height, left : left + width] = filled(picture, width, height)
    return page


def among(num_rows: int, num_columns: int, cell_width: int) -> Alter:
    """As one of so many pictures, each a little cut to fill its cell; the others are other photographs."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        pictures = [draw.other() for _ in range(num_rows * num_columns - 1)]
        pictures.insert(int(draw.rng.integers(num_rows * num_columns)), image)
        height = round(cell_width * np.clip(image.shape[0] / image.shape[1], 0.75, 1.333))
        return mosaic(pictures, num_columns, (cell_width, height), int(draw.rng.integers(0, 9)), draw.color())

    return alter


def inset(share: float) -> Alter:
    """Over a part of another photograph; ``share`` of its sides."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        page = filled(draw.other(), image.shape[1], image.shape[0]).copy()
        small = bordered(scaled(share)(image, draw), (2,) * 4, (255, 255, 255))
        top, left = (draw.rng.integers(a - b + 1) for a, b in zip(page.shape[:2], small.shape[:2], strict=True))
        page[top : top + small.shape[0], left : left + small.shape[1]] = small
        return page

    return alter


def ghost(alpha: float) -> Alter:
    """Another photograph shines through."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        other = filled(draw.other(), image.shape[1], image.shape[0])
        return np.asarray(cv2.addWeighted(image, 1 - alpha, other, alpha, 0))

    return alter


# The kinds of copies


@dataclass(frozen=True)
class Kind:
    """``of``: what is copied: a photograph, or one of the drawn pages and patterns."""

    name: str
    severity: str
    tier: str
    alter: Alter
    of: str = "photo"


def graded(name: str, make: Callable[[float], Alter], **severities: Sequence[float]) -> list[Kind]:
    """``make`` at the severities of each tier."""
    return [Kind(name, f"{v:g}", tier, make(v)) for tier, values in severities.items() for v in values]


def single(name: str, tier: str, *steps: Alter, severity: str = "", of: str = "photo") -> Kind:
    return Kind(name, severity, tier, chain(*steps), of)


LIGHT: tuple[Alter, ...] = (
    crop(0.75), mirror, jpeg(30), gamma(1.6), gamma(0.6), text_lines(1, 0.07, False), scaled(0.6), turn(6, "reflected"),
    pad(0.15), blur(1), noise(10), recolor(60, 1), grey, stretch(1.15), sticker(0.18), vignette(0.6), contrast(0.6),
)  # fmt: skip
STRONG: tuple[Alter, ...] = (
    crop(0.5), turn(20, "black"), turn(12, "cut"), perspective(0.09), text_lines(3, 0.08, True), gamma(2.3), blur(2),
    thumbnail(144), watermark(0.4), jpeg(12), noise(28), stretch(1.4), meme, passe_partout(0.25), doodle(6),
)  # fmt: skip


def combined(num_light: int, num_strong: int) -> Alter:
    """So many alterations of each list, in any order."""

    def alter(image: Pixels, draw: Draw) -> Pixels:
        drawn = [(LIGHT, i) for i in draw.rng.choice(len(LIGHT), num_light, replace=False)]
        drawn += [(STRONG, i) for i in draw.rng.choice(len(STRONG), num_strong, replace=False)]
        return chain(*(drawn[i][0][drawn[i][1]] for i in draw.rng.permutation(len(drawn))))(image, draw)

    return alter


def same(image: Pixels, draw: Draw) -> Pixels:
    return image


def size_and_compression() -> list[Kind]:
    return [
        single("same bytes", "easy", same),
        single("encoded again", "easy", same),
        *graded("resize", scaled, easy=(0.5, 0.75, 1.5, 2)),
        *graded("thumbnail", lambda v: thumbnail(int(v)), easy=(128,), medium=(96,), hard=(64,), extreme=(48,)),
        *graded("jpeg", lambda v: jpeg(int(v)), easy=(50, 30), medium=(20,), hard=(10,)),
        *graded("webp", lambda v: webp(int(v)), easy=(50,), medium=(15,), hard=(2,)),
        *graded("aspect", stretch, easy=(1.15,), medium=(1.3,), hard=(1.6,)),
    ]


def cut_and_turned() -> list[Kind]:
    return [
        *graded("crop", crop, easy=(0.8,), medium=(0.6,), hard=(0.45, 0.3), extreme=(0.2,)),
        *graded("crop, resized back", crop_back, medium=(0.7,), hard=(0.5,), extreme=(0.3,)),
        single("mirror", "easy", mirror),
        single("upside down", "medium", upside_down),
        single("quarter turn", "medium", quarter_turn),
        *graded("turned, black", lambda v: turn(v, "black"), easy=(2, 5), medium=(10,), hard=(20, 30), extreme=(45,)),
        *graded("turned, reflected", lambda v: turn(v, "reflected"), easy=(3,), medium=(8,), hard=(25,), extreme=(45,)),
        *graded("turned, cut", lambda v: turn(v, "cut"), easy=(3,), medium=(10,), hard=(20,), extreme=(40,)),
        *graded("perspective", perspective, medium=(0.04,), hard=(0.08, 0.12), extreme=(0.16,)),
        *graded("shear", shear, easy=(0.08,), medium=(0.2,), hard=(0.4,)),
        *graded("lens", lens, easy=(0.1,), medium=(0.25,), hard=(0.5,)),
    ]


def tones() -> list[Kind]:
    return [
        *graded("gamma", gamma, easy=(0.7, 1.4), medium=(0.5, 2), hard=(0.33, 3)),
        *graded("contrast", contrast, easy=(0.7, 1.5), medium=(0.4, 2.5), hard=(0.2,)),
        *graded("brightness", brightness, easy=(-0.12, 0.12), medium=(-0.3, 0.3), hard=(-0.45, 0.45)),
        single("grey", "easy", grey),
        *graded("hue", lambda v: recolor(v, 1), easy=(30,), medium=(90, 150)),
        *graded("saturation", lambda v: recolor(0, v), easy=(0.4, 1.8), medium=(4,)),
        *graded("vignette", vignette, easy=(0.6,), medium=(1,)),
        *graded("posterised", lambda v: posterise(int(v)), easy=(8,), medium=(4,), hard=(3,)),
        *graded("palette", lambda v: palette(int(v)), easy=(64,), medium=(16,), hard=(8,)),
        *graded("halftone", halftone, hard=(4,), extreme=(7,)),
        single("filter and frame", "easy", tone_filter, pad(0.06), severity="whole"),
        single("filter and frame", "medium", crop(0.75), tone_filter, passe_partout(0.12), severity="crop .75"),
        single("filter and frame", "hard", crop(0.5), tone_filter, passe_partout(0.2), severity="crop .5"),
    ]


def blurs_and_noise() -> list[Kind]:
    return [
        *graded("blur", blur, easy=(1,), medium=(2,), hard=(3,), extreme=(4.5,)),
        *graded("motion blur", motion_blur, easy=(5,), medium=(9,), hard=(15,), extreme=(23,)),
        *graded("sharpen", sharpen, easy=(1,), medium=(4,)),
        *graded("noise", noise, easy=(8,), medium=(20,), hard=(40,), extreme=(65,)),
        *graded("salt and pepper", salt_and_pepper, easy=(0.01,), medium=(0.04,), hard=(0.12,)),
    ]


def drawn_over() -> list[Kind]:
    return [
        single("text", "easy", text_lines(1, 0.07, False), severity="1 line"),
        single("text", "medium", text_lines(3, 0.08, False), severity="3 lines"),
        single("text", "hard", text_lines(6, 0.1, True), severity="6 bold lines"),
        single("meme", "medium", meme),
        single("border and text", "medium", pad(0.2), text_lines(2, 0.07, True), severity=".2, 2 lines"),
        single("border and text", "hard", pad(0.4), text_lines(5, 0.07, True), severity=".4, 5 lines"),
        *graded("sticker", sticker, easy=(0.1,), medium=(0.25,)),
        *graded("watermark", watermark, medium=(0.3,), hard=(0.45, 0.6)),
        *graded("doodle", lambda v: doodle(int(v)), easy=(2,), medium=(4,), hard=(8,), extreme=(16,)),
        *graded("censored", censor, easy=(0.1,), medium=(0.2,)),
        *graded("ghost", ghost, medium=(0.2,), hard=(0.35,), extreme=(0.5,)),
    ]


def surrounded() -> list[Kind]:
    return [
        *graded("padding", pad, easy=(0.1,), medium=(0.25,), hard=(0.6,)),
        *graded("letterbox", letterbox, easy=(0.12,), medium=(0.3,)),
        *graded("passe-partout", passe_partout, easy=(0.1,), medium=(0.25,), hard=(0.5,)),
        *graded("blurred ground", blurred_ground, medium=(0.7,), hard=(0.45,)),
        *graded("photo of a screen", screen_photo, medium=(0.5,), hard=(1,), extreme=(1.6,)),
        *graded("screenshot", screenshot, medium=(0.8,), hard=(0.6,), extreme=(0.4,)),
        *graded("collage", lambda v: among(1, int(v), 256), hard=(2,), extreme=(3, 4)),
        *(single("grid", "extreme", among(*size, 150), severity="x".join(map(str, size))) for size in ((2, 3), (3, 3))),
        *graded("inset", inset, hard=(0.5,), extreme=(0.35,)),
    ]


def combinations() -> list[Kind]:
    amounts = ("medium", 2, 0), ("medium", 1, 1), ("hard", 3, 0), ("hard", 0, 2), ("extreme", 2, 2), ("extreme", 1, 3)
    return [
        single("combination", tier, combined(light, strong), severity=f"{light} light, {strong} strong")
        for tier, light, strong in amounts
    ]


def drawn_originals() -> list[Kind]:
    """Copies of what is no photograph: only such that no other page or pattern could be meant."""
    return [
        single("text page", "easy", jpeg(40), severity="jpeg 40", of="page"),
        single("text page", "medium", scaled(0.7), severity="resize 0.7", of="page"),
        single("text page", "hard", crop(0.6), severity="crop 0.6", of="page"),
        single("pattern", "easy", jpeg(50), severity="jpeg 50", of="pattern"),
        single("pattern", "easy", scaled(0.7), severity="resize 0.7", of="pattern"),
    ]


KINDS = (
    *size_and_compression(), *cut_and_turned(), *tones(), *blurs_and_noise(), *drawn_over(), *surrounded(),
    *combinations(), *drawn_originals(),
)  # fmt: skip


# What is no copy


def framed(image: Pixels, seed: int) -> Pixels:
    """The picture in a patterned frame that takes a third of the area."""
    pattern = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    page = cv2.resize(pattern, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    top, left = (round(0.09 * side) for side in image.shape[:2])
    inner = resized(image, image.shape[1] - 2 * left, image.shape[0] - 2 * top)
    page[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return np.asarray(page)


def pattern(family: int, rng: np.random.Generator) -> Pixels:
    """Checkers, stripes, dots, tartan, gradient or halftone; period, angle, phase and colours are drawn."""
    height, width = 256, int(rng.choice([256, 300, 341]))
    y, x = np.mgrid[:height, :width].astype(np.float64)
    angle, phase, period = rng.uniform(0, np.pi), rng.uniform(0, 9, 2), rng.uniform(14, 70)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    a, b = np.sin(2 * np.pi * u / period + phase[0]), np.sin(2 * np.pi * v / period + phase[1])
    setts = rng.uniform(0.3, 1, 4)
    tartan = sum(w * (np.sin(2 * np.pi * k * s / period / 2 + phase[0]) > 0.4)
                 for w, k, s in zip(setts, (1, 3, 1, 4), (u, u, v, v), strict=True)) / setts.sum()  # fmt: skip
    gradient = (u - u.min()) / np.ptp(u)
    forms = a * b > 0, a > rng.uniform(-0.5, 0.5), a + b > 1.0, tartan, gradient, a + b > 3 * gradient - 1.5
    weight = np.asarray(forms[family], np.float64)[..., None]
    colors = rng.integers(0, 256, (2, 3))
    colors[1] = (colors[0] + rng.integers(90, 166, 3)) % 256
    return np.asarray(colors[0] * weight + colors[1] * (1 - weight), np.uint8)


NUM_FAMILIES = 6


def text_page(letterhead: bool, rng: np.random.Generator) -> Pixels:
    """A typed page; all pages have the same font, size and layout, and half of them the same letterhead."""
    page = np.full((PAGE_HEIGHT, PAGE_WIDTH, 3), 252, np.uint8)
    if letterhead:
        badge, opacity = logo(46, np.random.default_rng(LOGO_SEED))
        page[14:60, 20:66] = badge * opacity + 252 * (1 - opacity)
        head = [(76, 18, "Bureau of Weights"), (76, 36, "12 Harbour Street")]
        page = written(page, head, Style(15, (90, 40, 10), (90, 40, 10), 0))
        cv2.line(page, (20, 68), (PAGE_WIDTH - 20, 68), (90, 40, 10), 2)
    lines = [(22, 84 + 16 * i, words(int(rng.integers(20, 46)) if i % 6 == 5 else 46, rng)) for i in range(21)]
    return written(page, lines, Style(12, (25, 25, 25)))


def product(texture: Pixels) -> Pixels:
    """A shirt with the texture of a photograph, on white; always the same shirt."""
    outline = [(90, 40), (120, 52), (150, 40), (222, 76), (204, 124), (176, 112), (176, 250), (64, 250), (64, 112),
               (36, 124), (18, 76)]  # fmt: skip
    mask = np.zeros((290, 240), np.uint8)
    cv2.fillPoly(mask, [np.array(outline, np.int32)], 255, cv2.LINE_AA)
    opacity = mask[..., None].astype(np.float32) / 255
    return np.asarray(filled(texture, 240, 290) * opacity + 250 * (1 - opacity), np.uint8)


def near_empty(draw: Draw) -> Pixels:
    """One colour, and now and then a hair, a speck or a corner of something."""
    image = np.full((int(draw.rng.integers(200, 340)), 256, 3), draw.color(), np.uint8)
    kind, places = draw.rng.integers(4), draw.rng.integers(20, 200, (3, 2)).tolist()
    if kind == 1:
        cv2.line(image, places[0], places[1], draw.color(), 1, cv2.LINE_AA)
    elif kind == 2:
        for place in places:
            cv2.circle(image, place, int(draw.rng.integers(2, 6)), draw.color(), -1, cv2.LINE_AA)
    elif kind == 3:
        cv2.rectangle(image, (-1, -1), (30, 60), draw.color(), -1)
    return image


def same_screen(picture: Pixels, number: int) -> Pixels:
    seed = SCREEN_SEEDS[number % len(SCREEN_SEEDS)]
    return screen_page(filled(picture, 256, 300), 0.6, np.random.default_rng(seed))


def same_watermark(image: Pixels, number: int) -> Pixels:
    seed = WATERMARK_SEEDS[number % len(WATERMARK_SEEDS)]
    return tiled_watermark(image, 0.55, np.random.default_rng(seed))


def same_frame(image: Pixels, number: int) -> Pixels:
    return framed(image, FRAME_SEEDS[number % len(FRAME_SEEDS)])


Make = Callable[[int, Pixels, Draw], Pixels]
"""From the number within its kind, a photograph of its own, and chance."""

PROTECTED: dict[str, tuple[int, Make]] = {
    "watermark": (20, lambda i, photo, draw: same_watermark(photo, i)),
    "frame": (20, lambda i, photo, draw: same_frame(photo, i)),
    "logo": (10, lambda i, photo, draw: put_logo(photo, 0.3, LOGO_SEED, draw)),
    "screen": (5, lambda i, photo, draw: same_screen(photo, i)),
    "product": (5, lambda i, photo, draw: product(photo)),
    "page": (10, lambda i, photo, draw: text_page(i % 2 == 0, draw.rng)),
    "pattern": (10, lambda i, photo, draw: pattern(i % NUM_FAMILIES, draw.rng)),
}
"""Of 300 protected pictures so many; the rest are photographs as they are."""

NUM_SHARED = {"watermark": 2, "frame": 2, "logo": 1, "screen": 2, "product": 1, "page": 2}
"""How many watermarks, frames, ... there are, which negatives show too; of pages every other has the letterhead."""

PHOTO_LIKE = ("photo", "watermark", "frame", "logo")

NEGATIVES: dict[str, tuple[int, Make]] = {
    "same watermark": (120, lambda i, photo, draw: same_watermark(photo, i)),
    "same frame": (120, lambda i, photo, draw: same_frame(photo, i)),
    "same logo, photograph": (30, lambda i, photo, draw: put_logo(photo, 0.3, LOGO_SEED, draw)),
    "same logo, flat ground": (30, lambda i, photo, draw: put_logo(
        np.full((300, 256, 3), draw.color(), np.uint8), draw.rng.uniform(0.25, 0.6), LOGO_SEED, draw)),
    "same screen": (100, lambda i, photo, draw: same_screen(photo, i)),
    "same product shape": (60, lambda i, photo, draw: product(photo)),
    "same letterhead": (75, lambda i, photo, draw: text_page(True, draw.rng)),
    "text page": (75, lambda i, photo, draw: text_page(False, draw.rng)),
    "pattern": (150, lambda i, photo, draw: pattern(i % NUM_FAMILIES, draw.rng)),
    "flat or near empty": (40, lambda i, photo, draw: near_empty(draw)),
    "collage": (80, lambda i, photo, draw: among(1 + i % 2, 2 + i % 3 // 2, 180)(photo, draw)),
}  # fmt: skip
"""Of 2,360 negatives so many; the rest are other photographs."""


# The set


@dataclass(frozen=True)
class Item:
    """One file. ``photo``: number of the photograph; a copy's is that of its original. ``index``: within its kind.

    ``copied_as``: which of ``KINDS``, by number, since the alterations are closures, which no worker can be sent.
    """

    path: Path
    role: str
    kind: str
    photo: int
    index: int
    copied_as: int | None = None

    def truth(self) -> tuple[str, ...]:
        """image, tier, kind, severity, original, negative."""
        if self.copied_as is None:
            return self.path.name, "", "", "", "", self.kind
        copied = KINDS[self.copied_as]
        return self.path.name, copied.tier, copied.name, copied.severity, protected_name(self.photo), ""


@dataclass(frozen=True)
class Sources:
    """``spare``: photographs that are neither protected nor in the pool."""

    protected: Photos
    negatives: Photos
    spare: Photos
    seed: int

    def chance(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *numbers))


def protected_name(number: int) -> str:
    return f"p{number:05}.jpg"


def spread(kinds: dict[str, tuple[int, Make]], total: int, of: int, rest: str) -> list[tuple[str, int]]:
    """(kind, number within it) of ``total`` pictures, where ``kinds`` says how many there are of ``of``."""
    named = [(name, i) for name, (count, _) in kinds.items() for i in range(round(count * total / of))]
    return [(rest, i) for i in range(total - len(named))] + named


def protected_items(folder: Path, count: int, shared_by: int) -> list[Item]:
    """``shared_by``: how many of the pictures show the same watermark, frame, ..., at most."""
    most = {name: shared_by * number for name, number in NUM_SHARED.items()}
    kinds = spread(
        {name: (min(n, most.get(name, n)), make) for name, (n, make) in PROTECTED.items()}, count, 300, "photo"
    )
    return [Item(folder / protected_name(n), "protected", kind, n, i) for n, (kind, i) in enumerate(kinds)]


def copies(protected: list[Item], count: int, rng: np.random.Generator) -> Iterator[tuple[Item, int]]:
    """(original, number of the kind): as many of each kind and severity, originals drawn without preference."""
    of = {
        "photo": [p for p in protected if p.kind in PHOTO_LIKE],
        "page": [p for p in protected if p.kind == "page"],
        "pattern": [p for p in protected if p.kind == "pattern"],
    }
    possible = [number for number, kind in enumerate(KINDS) if of[kind.of]]
    for number in islice(cycle(possible), count):
        originals = of[KINDS[number].of]
        yield originals[int(rng.integers(len(originals)))], number


def pool_items(
    folder: Path, protected: list[Item], num_copies: int, num_negatives: int, rng: np.random.Generator
) -> list[Item]:
    """In an order, and under names, that say nothing."""
    names = iter(rng.permutation(num_copies + num_negatives).tolist())
    negatives = enumerate(spread(NEGATIVES, num_negatives, 2360, "other photograph"))
    items = [Item(folder / f"{next(names):06}.jpg", "negative", kind, n, i) for n, (kind, i) in negatives]
    items += [
        Item(folder / f"{next(names):06}.jpg", "copy", original.kind, original.photo, original.index, kind)
        for original, kind in copies(protected, num_copies, rng)
    ]
    return sorted(items, key=lambda item: item.path)


def protected_picture(item: Item, sources: Sources) -> Pixels:
    photo, draw = sources.protected[item.photo], Draw(sources.chance(1, item.photo), sources.spare)
    return photo if item.kind == "photo" else PROTECTED[item.kind][1](item.index, photo, draw)


def picture(item: Item, sources: Sources) -> tuple[Pixels, int]:
    """The picture and the JPEG quality it is written with, which only exact copies share with their original."""
    kind = None if item.copied_as is None else KINDS[item.copied_as]
    if item.role == "protected" or (kind and kind.name == "same bytes"):
        return protected_picture(item, sources), int(sources.chance(2, item.photo).integers(75, 93))
    draw = Draw(sources.chance(3, int(item.path.stem)), sources.spare)
    quality = int(draw.rng.integers(75, 93))
    if kind:
        return kind.alter(protected_picture(item, sources), draw), quality
    photo = sources.negatives[item.photo]
    return (photo if item.kind not in NEGATIVES else NEGATIVES[item.kind][1](item.index, photo, draw)), quality


def write(items: Sequence[Item], sources: Sources) -> None:
    cv2.setNumThreads(1)
    for item in items:
        image, quality = picture(item, sources)
        cv2.imwrite(str(item.path), np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, quality])


def find_sources(args: argparse.Namespace) -> Sources:
    rng = np.random.default_rng(args.seed)
    photos, others = find_photos(args.photos, rng), find_photos(args.negatives, rng)
    if len(photos) < args.num_protected or len(others) < args.num_negatives + 10:
        raise SystemExit(
            f"{args.num_protected} protected photographs and {args.num_negatives + 10} others are needed, found "
            f"{len(photos)} and {len(others)}; name more folders with --photos and --negatives"
        )
    negatives, spare = slice(0, args.num_negatives), slice(args.num_negatives, None)
    return Sources(photos.part(slice(0, args.num_protected)), others.part(negatives), others.part(spare), args.seed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, action="append", help="to be protected")
    parser.add_argument("--negatives", type=Path, required=True, action="append", help="of which none is a copy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-protected", type=int, default=300)
    parser.add_argument("--num-copies", type=int, default=4500)
    parser.add_argument("--num-negatives", type=int, default=2360)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shared-by", type=int, default=300, help="most protected pictures with one watermark, frame, ..."
    )
    return parser.parse_args()


def main() -> None:
    args = arguments()
    sources = find_sources(args)
    for folder in ("protected", "pool"):
        (args.out / folder).mkdir(parents=True, exist_ok=False)
    protected = protected_items(args.out / "protected", args.num_protected, args.shared_by)
    rng = sources.chance(0)
    pool = pool_items(args.out / "pool", protected, args.num_copies, args.num_negatives, rng)
    todo = [*protected, *pool]
    pieces = [todo[i : i + 100] for i in range(0, len(todo), 100)]
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(write, pieces, [sources] * len(pieces)))
    with (args.out / "truth.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "tier", "kind", "severity", "original", "negative"))
        rows.writerows(item.truth() for item in pool)


if __name__ == "__main__":
    main()
