"""Altered copies of a picture, as they circulate: what `dedupe` is there to find."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from ssld_pipeline.demo.encoding import Pixels, decode_jpeg, encode_jpeg

Rng = np.random.Generator


def plant(image: Pixels, kind: str, rng: Rng) -> Pixels:
    """A copy of ``image`` ((H, W, 3) uint8 RGB) altered in the way ``kind``, one of ``KINDS``, moderately.

    ``exact`` returns the pixels as they are: equal bytes need the encoded file itself. KeyError for another kind.
    """
    return np.array(_ALTERATIONS[kind](image, rng), np.uint8, order="C")


def _scaled(image: Pixels, factor_x: float, factor_y: float) -> Pixels:
    size = (max(8, round(image.shape[1] * factor_x)), max(8, round(image.shape[0] * factor_y)))
    scaled: Pixels = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor_x < 1 else cv2.INTER_CUBIC)
    return scaled


def _resize(image: Pixels, rng: Rng) -> Pixels:
    factor = rng.uniform(0.5, 0.85) if rng.random() < 0.5 else rng.uniform(1.2, 2.0)
    return _scaled(image, factor, factor)


def _thumbnail(image: Pixels, rng: Rng) -> Pixels:
    """Short side 64 to 80 pixels, or half of what there is."""
    short = min(image.shape[:2])
    factor = max(rng.uniform(64, 80) / short, 0.25) if short > 80 else 0.5
    return _scaled(image, factor, factor)


def _jpeg(image: Pixels, rng: Rng) -> Pixels:
    return decode_jpeg(encode_jpeg(image, int(rng.integers(15, 50))))


def _crop(image: Pixels, rng: Rng) -> Pixels:
    """50 to 80 % of the area, anywhere."""
    height, width = image.shape[:2]
    side = math.sqrt(rng.uniform(0.5, 0.8))
    rows, columns = round(height * side), round(width * side)
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    return image[top : top + rows, left : left + columns]


def _mirror(image: Pixels, rng: Rng) -> Pixels:
    return image[:, ::-1]


def _rotate(image: Pixels, rng: Rng) -> Pixels:
    """3 to 15 degrees either way, enlarged so that no corner shows."""
    height, width = image.shape[:2]
    degrees = rng.uniform(3, 15) * rng.choice([-1, 1])
    radians, aspect = math.radians(abs(degrees)), max(height / width, width / height)
    zoom = math.cos(radians) + aspect * math.sin(radians)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom)
    turned: Pixels = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return turned


def _rotate90(image: Pixels, rng: Rng) -> Pixels:
    return np.rot90(image, int(rng.integers(1, 4)))


def _gamma(image: Pixels, rng: Rng) -> Pixels:
    gamma = math.exp(rng.choice([-1, 1]) * rng.uniform(0.25, 0.6))
    return np.asarray(np.rint(255 * (image / 255.0) ** gamma), np.uint8)


def _brightness(image: Pixels, rng: Rng) -> Pixels:
    gain, offset = rng.uniform(0.75, 1.25), rng.choice([-1, 1]) * rng.uniform(15, 40)
    return np.asarray(np.clip(image * gain + offset, 0, 255), np.uint8)


def _grey(image: Pixels, rng: Rng) -> Pixels:
    grey: Pixels = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return grey


def _saturation(image: Pixels, rng: Rng) -> Pixels:
    """Colours fade or glare: distance to grey times 0.2 to 0.6 or 1.4 to 2."""
    factor = rng.uniform(0.2, 0.6) if rng.random() < 0.5 else rng.uniform(1.4, 2.0)
    grey = _grey(image, rng).astype(np.float32)
    return np.clip(grey + (image - grey) * factor, 0, 255).astype(np.uint8)


def _blur(image: Pixels, rng: Rng) -> Pixels:
    """Standard deviation 0.6 to 1.2 % of the short side."""
    blurred: Pixels = cv2.GaussianBlur(image, (0, 0), min(image.shape[:2]) * rng.uniform(0.006, 0.012))
    return blurred


def _noise(image: Pixels, rng: Rng) -> Pixels:
    return np.clip(image + rng.normal(0, rng.uniform(8, 18), image.shape), 0, 255).astype(np.uint8)


_WORDS = ("SAMPLE", "sale -50%", "photo 2019", "(c) archive", "preview", "No. 4711")


def _text(image: Pixels, rng: Rng) -> Pixels:
    """One line of large letters across the picture, outlined as captions are."""
    marked = image.copy()
    height, width = image.shape[:2]
    words = _WORDS[int(rng.integers(len(_WORDS)))]
    (length, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    scale = width * rng.uniform(0.6, 0.9) / length
    at = (int(width * 0.05), int(height * rng.uniform(0.25, 0.95)))
    thickness = max(1, round(2 * scale))
    cv2.putText(marked, words, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), thickness + 2, cv2.LINE_AA)
    cv2.putText(marked, words, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return marked


def _logo(image: Pixels, rng: Rng) -> Pixels:
    """A badge in one corner, a fifth to a third of the short side wide."""
    marked = image.copy()
    height, width = image.shape[:2]
    radius = int(min(height, width) * rng.uniform(0.1, 0.16))
    x = radius + 3 if rng.random() < 0.5 else width - radius - 3
    y = radius + 3 if rng.random() < 0.5 else height - radius - 3
    tint = [int(c) for c in rng.integers(0, 256, 3)]
    cv2.circle(marked, (x, y), radius, tint, -1, cv2.LINE_AA)
    cv2.circle(marked, (x, y), radius, (255, 255, 255), max(1, radius // 6), cv2.LINE_AA)
    cv2.line(marked, (x - radius // 2, y), (x + radius // 2, y), (255, 255, 255), max(1, radius // 5), cv2.LINE_AA)
    return marked


def _pad(image: Pixels, rng: Rng) -> Pixels:
    """A frame of one colour: 5 to 20 % of the short side, on all sides or on two."""
    border = round(min(image.shape[:2]) * rng.uniform(0.05, 0.2))
    tint = [0, 0, 0] if rng.random() < 0.5 else [255, 255, 255]
    sides = [(border,) * 4, (border, border, 0, 0), (0, 0, border, border)][int(rng.integers(3))]
    framed: Pixels = cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=tint)
    return framed


def _aspect(image: Pixels, rng: Rng) -> Pixels:
    stretch = math.exp(rng.choice([-1, 1]) * rng.uniform(0.1, 0.25))
    return _scaled(image, math.sqrt(stretch), 1 / math.sqrt(stretch))


_GEOMETRIC = ("resize", "crop", "mirror", "rotate", "pad", "aspect")
_PHOTOMETRIC = ("gamma", "brightness", "grey", "saturation", "blur", "noise", "text", "logo")


def _combination(image: Pixels, rng: Rng) -> Pixels:
    """One geometric change, then one of tone or overlay, then a low JPEG quality."""
    for kinds in (_GEOMETRIC, _PHOTOMETRIC, ("jpeg",)):
        image = plant(image, kinds[int(rng.integers(len(kinds)))], rng)
    return image


_ALTERATIONS: dict[str, Callable[[Pixels, Rng], Pixels]] = {
    "exact": lambda image, rng: image.copy(),
    "resize": _resize,
    "thumbnail": _thumbnail,
    "jpeg": _jpeg,
    "crop": _crop,
    "mirror": _mirror,
    "rotate": _rotate,
    "rotate90": _rotate90,
    "gamma": _gamma,
    "brightness": _brightness,
    "grey": _grey,
    "saturation": _saturation,
    "blur": _blur,
    "noise": _noise,
    "text": _text,
    "logo": _logo,
    "pad": _pad,
    "aspect": _aspect,
    "combination": _combination,
}

KINDS = tuple(_ALTERATIONS)
"""Every kind of copy; only ``exact`` leaves the picture as it is."""
