"""The views of an image that the teacher labels, as explicit parameters: drawn once, stored, and cut again bit for bit.

View 0 is the evaluation view. Views 1, 2, ... are random crops, flips and colour changes; their parameters are a
function of (seed, image_id, number) alone, and what is stored is the parameters, so that a replay draws nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageEnhance

from ssld_pipeline.kernels.digests import digest
from ssld_pipeline.kernels.images import Image, Pixels, center_crop_box, decode, evaluation_view
from ssld_pipeline.training.augmentation import Crop, cut, draw_crop
from ssld_pipeline.training.recipe import Recipe


class Replay(NamedTuple):
    """What replays a view: its box in pixels of the upright source (of views from 1 on, whole pixels), whether it is
    mirrored, and the colour factors, applied in this order; 1 changes nothing. All are exact in float32."""

    left: float
    top: float
    width: float
    height: float
    flipped: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


REPLAY_COLUMNS = (
    *("crop_left", "crop_top", "crop_width", "crop_height"),
    *("flipped", "brightness", "contrast", "saturation"),
)
"""Where the fields of `Replay` stand in the table ``soft_labels``."""


class SourceImage:
    """An encoded image that is decoded as small as each view allows, and no more often than need be."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._decoded: dict[int, Image] = {}

    def decoded(self, min_short_side: int) -> Image:
        """As `decode` gives it. BadImage where it cannot be decoded."""
        if min_short_side not in self._decoded:
            same = (i for i in self._decoded.values() if _is_whole(i) and not _can_be_halved(i, min_short_side))
            found = next(same, None) or decode(self._data, min_short_side=min_short_side)
            self._decoded[min_short_side] = found
        return self._decoded[min_short_side]

    def view(self, image_id: str, number: int, recipe: Recipe) -> tuple[Pixels, Replay]:
        """View ``number`` of the image: uint8 SxSx3, and its parameters."""
        if number == 0:
            image = self.decoded(round(recipe.image_size / recipe.crop_pct))
            replay = Replay(*center_crop_box(image.width, image.height, recipe.image_size, recipe.crop_pct))
            return evaluation_view(image.pixels, recipe.image_size, recipe.crop_pct), replay
        image = self.decoded(least_short_side(recipe.image_size, recipe.min_crop_area))
        replay = draw(image_id, number, image.width, image.height, recipe)
        return cut_replay(image, replay, recipe.image_size), replay


def replay_view(data: bytes, replay: Replay, recipe: Recipe, image_size: int | None = None) -> Pixels:
    """The view from 1 on that ``replay`` describes, uint8 SxSx3, bit for bit what `SourceImage.view` gave.

    ``recipe`` says how large the view is and, with its min_crop_area, how far a JPEG was reduced while it was decoded;
    ``image_size`` asks for another size than was labelled. BadImage where the image cannot be decoded.
    """
    image = decode(data, min_short_side=least_short_side(recipe.image_size, recipe.min_crop_area))
    return cut_replay(image, replay, image_size or recipe.image_size)


def least_short_side(image_size: int, min_crop_area: float) -> int:
    """Short side in pixels below which the narrowest crop, sqrt(min_crop_area * 3/4) of it, would be blurred."""
    return math.ceil(image_size / math.sqrt(min_crop_area * 3 / 4))


def draw(image_id: str, number: int, width: int, height: int, recipe: Recipe) -> Replay:
    """The parameters of view ``number`` (from 1 on) of an image of ``width`` x ``height`` pixels."""
    key = digest(f"{recipe.seed} {number} {image_id}".encode())
    random = np.random.Generator(np.random.Philox(key=np.frombuffer(key, np.uint64)))
    crop = draw_crop(width, height, recipe.min_crop_area, random)
    factors = random.uniform(1 - recipe.jitter, 1 + recipe.jitter, 3).astype(np.float32)
    colours = [float(factor) for factor in factors] if recipe.jitter else [1.0, 1.0, 1.0]
    return Replay(crop.left, crop.top, crop.width, crop.height, crop.flipped, *colours)


def cut_replay(image: Image, replay: Replay, image_size: int) -> Pixels:
    """The view that ``replay`` describes out of a decoded, perhaps reduced, image."""
    return _coloured(cut(image.pixels, _within(image, replay), image_size), replay)


def _within(image: Image, replay: Replay) -> Crop:
    """The box in pixels of ``image.pixels``."""
    rows, columns = image.pixels.shape[:2]
    x, y = columns / image.width, rows / image.height
    left, top = min(round(replay.left * x), columns - 1), min(round(replay.top * y), rows - 1)
    width = min(max(1, round(replay.width * x)), columns - left)
    height = min(max(1, round(replay.height * y)), rows - top)
    return Crop(left, top, width, height, replay.flipped)


def _coloured(pixels: Pixels, replay: Replay) -> Pixels:
    factors = (replay.brightness, replay.contrast, replay.saturation)
    if factors == (1.0, 1.0, 1.0):
        return pixels
    view = PillowImage.fromarray(pixels)
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        view = enhance(view).enhance(factor)
    return np.array(view)


def _is_whole(image: Image) -> bool:
    return image.pixels.shape[:2] == (image.height, image.width)


def _can_be_halved(image: Image, min_short_side: int) -> bool:
    return -(-min(image.width, image.height) // 2) >= min_short_side
