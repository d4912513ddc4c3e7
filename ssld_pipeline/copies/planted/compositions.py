"""A picture within something else, or under it: watermarks, captions, pages, collages, the photograph of a screen.

All functions: (H, W, 3) uint8 RGB and a generator in, a picture out; it may be larger than what went in.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ssld_pipeline.kernels.images import Pixels

Rng = np.random.Generator

_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)
_SYLLABLES = ("pho", "to", "ar", "chi", "ve", "sto", "ck", "ima", "ge", "com", "pre", "view", "wor", "ld", "no", "te")
_THICKNESS = 2


def watermark(image: Pixels, rng: Rng) -> Pixels:
    """The same words again and again, aslant across the picture, 20 to 45 % opaque."""
    height, width = image.shape[:2]
    side = 2 * max(height, width)
    layer = np.zeros((side, side), np.uint8)
    words, font, scale = f"(c) {_words(1, rng)}", _font(rng), width * rng.uniform(0.3, 0.45)
    step = _write_across(layer, words, font, scale, round(min(height, width) * rng.uniform(0.2, 0.35)))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-35, 35), 1.0)
    layer = cv2.warpAffine(layer, turn, (side, side))
    top, left = (side - height) // 2 + int(rng.integers(step)) // 2, (side - width) // 2
    share = rng.uniform(0.2, 0.45) * layer[top : top + height, left : left + width, None] / 255.0
    ink = 255 if rng.random() < 0.7 else 0
    return np.asarray(np.rint(image * (1 - share) + ink * share), np.uint8)


def _write_across(layer: Pixels, words: str, font: int, width: float, step: int) -> int:
    """Lines of ``words``, each repetition ``width`` wide and every other line shifted; their distance, pixels."""
    (length, height), _ = cv2.getTextSize(words, font, 1.0, _THICKNESS)
    scale = width / length
    step = max(step, round(height * scale) + 3)
    for line, y in enumerate(range(step, len(layer), step)):
        for x in range(-(line % 2) * round(0.6 * width), len(layer), round(1.2 * width)):
            cv2.putText(layer, words, (x, y), font, scale, (255,), _THICKNESS, cv2.LINE_AA)
    return step


def meme(image: Pixels, rng: Rng) -> Pixels:
    """Large capitals over the top and the bottom, or dark on a white band above the picture."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        band = round(height * rng.uniform(0.15, 0.3))
        page = np.concatenate((np.full((band, width, 3), 255, np.uint8), image))
        _write(page, _words(4, rng), (0.04 * width, 0.65 * band), 0.92 * width, (10, 10, 10), rng)
        return page
    marked = image.copy()
    for y in (0.16, 0.94):
        words, at = _words(3, rng).upper(), (0.04 * width, y * height)
        _write(marked, words, at, 0.92 * width, (255, 255, 255), rng, outline=(0, 0, 0))
    return marked


def screenshot(image: Pixels, rng: Rng) -> Pixels:
    """A page of text, light or dark, that shows the picture over 60 to 95 % of its width."""
    height, width = image.shape[:2]
    page_width = round(width / rng.uniform(0.6, 0.95))
    above, below = (round(height * share) for share in rng.uniform(0.15, 0.45, 2))
    ground, ink = ((250, 250, 250), (40, 40, 45)) if rng.random() < 0.6 else ((24, 26, 30), (215, 215, 220))
    page = np.full((above + height + below, page_width, 3), ground, np.uint8)
    line = max(6, round(0.045 * page_width))
    cv2.rectangle(page, (0, 0), (page_width, line), tuple(int(c) for c in rng.integers(0, 256, 3)), -1)
    for y in [*range(2 * line, above - line // 3, line), *range(above + height + line, len(page), line)]:
        _write(page, _words(5, rng), (0.04 * page_width, y), page_width * rng.uniform(0.5, 0.92), ink, rng)
    left = int(rng.integers(page_width - width + 1))
    page[above : above + height, left : left + width] = image
    return page


def collage(image: Pixels, rng: Rng) -> Pixels:
    """Beside, or above, another picture of the same size, with or without a gap."""
    height, width = image.shape[:2]
    gap, other = round(min(height, width) * rng.choice([0, 0.03])), _scenery(height, width, rng)
    upright = rng.random() < 0.5
    between = np.full((gap, width, 3) if upright else (height, gap, 3), 255, np.uint8)
    pair = (image, other) if rng.random() < 0.5 else (other, image)
    return np.concatenate((pair[0], between, pair[1]), axis=0 if upright else 1)


def _scenery(height: int, width: int, rng: Rng) -> Pixels:
    """Shapes of many sizes and colours on a mottled ground: as rich in key points as a photograph."""
    ground = rng.integers(60, 200, (9, 12, 3), dtype=np.uint8)
    drawn: Pixels = cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(40):
        centre, reach = rng.uniform(0, 1, 2) * (width, height), min(height, width) * rng.uniform(0.02, 0.16)
        corners = centre + rng.normal(0, reach, (int(rng.integers(3, 6)), 2))
        cv2.fillPoly(drawn, [corners.astype(np.int32)], rng.integers(0, 256, 3).tolist(), cv2.LINE_AA)
    return drawn


def screen_photo(image: Pixels, rng: Rng) -> Pixels:
    """The picture on a screen, photographed: its dark rim, a slight slant, the grid, uneven light, blur and noise."""
    height, width = image.shape[:2]
    rim = round(min(height, width) * rng.uniform(0.03, 0.08))
    framed = cv2.copyMakeBorder(image, rim, rim, rim, rim, cv2.BORDER_CONSTANT, value=(18, 18, 20))
    height, width = framed.shape[:2]
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    moved = corners + rng.uniform(-0.04, 0.04, (4, 2)) * (width, height)
    slant = cv2.getPerspectiveTransform(corners, moved.astype(np.float32))
    seen = cv2.warpPerspective(framed, slant, (width, height), borderValue=(18, 18, 20))
    seen = cv2.GaussianBlur(seen, (0, 0), max(0.5, 0.003 * min(height, width)))
    lit = seen * _light(height, width, rng)[..., None] + rng.normal(0, rng.uniform(3, 7), seen.shape)
    return np.asarray(np.clip(lit, 0, 255), np.uint8)


def _light(height: int, width: int, rng: Rng) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """float [height, width]: a slope of brightness, times the moiré of the screen's grid, 4 to 10 % deep."""
    y, x = np.mgrid[:height, :width]
    radians, depth, grid = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.2), np.zeros((height, width))
    slope = 1 + depth * ((x / width - 0.5) * math.cos(radians) + (y / height - 0.5) * math.sin(radians))
    for axis in (x + 0.1 * y, y - 0.1 * x):
        grid += np.sin(2 * math.pi * axis / rng.uniform(2.5, 6.0)) / 2
    return np.asarray(slope * (1 + rng.uniform(0.04, 0.1) * grid))


def _words(count: int, rng: Rng) -> str:
    return " ".join("".join(rng.choice(_SYLLABLES, int(rng.integers(2, 4)))) for _ in range(count))


def _font(rng: Rng) -> int:
    return int(_FONTS[int(rng.integers(len(_FONTS)))])


def _write(
    page: Pixels,
    words: str,
    at: tuple[float, float],
    width: float,
    ink: tuple[int, int, int],
    rng: Rng,
    outline: tuple[int, int, int] | None = None,
) -> None:
    """``words`` as one line some ``width`` pixels wide whose baseline begins ``at`` x, y."""
    font, place = _font(rng), (round(at[0]), round(at[1]))
    (length, _), _ = cv2.getTextSize(words, font, 1.0, _THICKNESS)
    scale = width / length
    if outline:
        letters, reach = np.zeros(page.shape[:2], np.uint8), 1 + 2 * max(1, round(1.5 * scale))
        cv2.putText(letters, words, place, font, scale, (255,), _THICKNESS)
        page[cv2.dilate(letters, np.ones((reach, reach), np.uint8)) > 127] = outline
    cv2.putText(page, words, place, font, scale, ink, _THICKNESS, cv2.LINE_AA)
