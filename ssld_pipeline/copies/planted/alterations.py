"""Altered copies of a picture, as they circulate: what dedupe is there to find.

Each kind is moderate: a person sees at once that it is the same picture. Pictures shown within something else, or
under it, are drawn by ``compositions``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from ssld_pipeline.copies.planted import compositions
from ssld_pipeline.kernels.images import Pixels, decode, encode_jpeg

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
    return decode(encode_jpeg(image, int(rng.integers(15, 50)))).pixels


def _crop(image: Pixels, rng: Rng) -> Pixels:
    """50 to 80 % of the area, anywhere."""
    return _window(image, rng.uniform(0.5, 0.8), rng)


def _hard_crop(image: Pixels, rng: Rng) -> Pixels:
    """25 to 45 % of the area, anywhere."""
    return _window(image, rng.uniform(0.25, 0.45), rng)


def _window(image: Pixels, share: float, rng: Rng) -> Pixels:
    height, width = image.shape[:2]
    side = math.sqrt(share)
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


def _perspective(image: Pixels, rng: Rng) -> Pixels:
    """Each corner moves outwards by 2 to 8 % of the sides: seen at a slant, nothing beside the picture shows."""
    height, width = image.shape[:2]
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    inset = rng.uniform(0.02, 0.08, (4, 2)) * np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) * (width, height)
    matrix = cv2.getPerspectiveTransform((corners + inset).astype(np.float32), corners)
    seen: Pixels = cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return seen


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


def _contrast(image: Pixels, rng: Rng) -> Pixels:
    """Distance to the mean tone times 0.5 to 0.75 or 1.35 to 1.8."""
    factor = rng.uniform(0.5, 0.75) if rng.random() < 0.5 else rng.uniform(1.35, 1.8)
    return np.asarray(np.clip(image.mean() + (image - image.mean()) * factor, 0, 255), np.uint8)


def _hue(image: Pixels, rng: Rng) -> Pixels:
    """Every colour 10 to 40 degrees further round the circle, either way."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(rng.choice([-1, 1]) * rng.uniform(10, 40) / 360 * 256) % 256)
    turned: Pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return turned


def _blur(image: Pixels, rng: Rng) -> Pixels:
    """Standard deviation 0.6 to 1.2 % of the short side."""
    blurred: Pixels = cv2.GaussianBlur(image, (0, 0), min(image.shape[:2]) * rng.uniform(0.006, 0.012))
    return blurred


def _motion_blur(image: Pixels, rng: Rng) -> Pixels:
    """Smeared along a line of 1.5 to 3.5 % of the short side, at least 3 pixels, in any direction."""
    length = max(3, round(min(image.shape[:2]) * rng.uniform(0.015, 0.035)))
    radians, middle, half = rng.uniform(0, math.pi), length / 2, (length - 1) / 2
    kernel = np.zeros((length + 1, length + 1), np.float32)
    reach = (half * math.cos(radians), half * math.sin(radians))
    ends = [(round(middle + sign * reach[0]), round(middle + sign * reach[1])) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    smeared: Pixels = cv2.filter2D(image, -1, kernel / kernel.sum())
    return smeared


def _sharpen(image: Pixels, rng: Rng) -> Pixels:
    """Unsharp masking by 0.8 to 2 times what a blur of 0.4 to 1 % of the short side takes away."""
    sigma = max(0.6, min(image.shape[:2]) * rng.uniform(0.004, 0.01))
    amount, fine = rng.uniform(0.8, 2.0), image - cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32)
    return np.asarray(np.clip(image + amount * fine, 0, 255), np.uint8)


def _salt_pepper(image: Pixels, rng: Rng) -> Pixels:
    """0.5 to 3 % of the pixels become black or white."""
    marked, drawn = image.copy(), rng.random(image.shape[:2])
    share = rng.uniform(0.005, 0.03)
    marked[drawn < share / 2] = 0
    marked[drawn > 1 - share / 2] = 255
    return marked


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
    "hue": _hue,
    "contrast": _contrast,
    "motion_blur": _motion_blur,
    "sharpen": _sharpen,
    "salt_pepper": _salt_pepper,
    "watermark": compositions.watermark,
    "meme": compositions.meme,
    "perspective": _perspective,
    "hard_crop": _hard_crop,
    "screenshot": compositions.screenshot,
    "collage": compositions.collage,
    "screen_photo": compositions.screen_photo,
}

KINDS = tuple(_ALTERATIONS)
"""Every kind of copy; only ``exact`` leaves the picture as it is."""
