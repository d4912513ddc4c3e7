"""One-shot random crops and flips, each a pure function of (seed, epoch, place in the epoch)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_ASPECTS = (3 / 4, 4 / 3)
_64_BITS = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Crop:
    """A box in pixels of the decoded image, and whether what it holds is mirrored."""

    left: int
    top: int
    width: int
    height: int
    flipped: bool


def random_generator(seed: int, epoch: int, place: int) -> np.random.Generator:
    """Independent of every other place: no state is carried from image to image, so a resumed run draws the same.

    ``place`` -1 is the epoch itself.
    """
    key = np.array([seed & _64_BITS, ((epoch << 40) + place) & _64_BITS], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def draw_crop(width: int, height: int, min_area: float, random: np.random.Generator) -> Crop:
    """Area uniform in [min_area, 1] of the image, aspect uniform in [3/4, 4/3], place uniform; half are mirrored.

    Drawn once: where the box does not fit, its area is drawn from what does (PaddleClas's RandCropImage; torchvision
    draws up to ten times, the aspect log-uniformly).
    """
    root = math.sqrt(random.uniform(*_ASPECTS))
    # The largest area with this aspect that fits, as a share of the image.
    limit = min(width / height / root**2, height / width * root**2)
    area = width * height * random.uniform(min(min_area, limit), min(1.0, limit))
    crop_width = min(width, max(1, round(math.sqrt(area) * root)))
    crop_height = min(height, max(1, round(math.sqrt(area) / root)))
    left = int(random.integers(0, width - crop_width + 1))
    top = int(random.integers(0, height - crop_height + 1))
    return Crop(left, top, crop_width, crop_height, bool(random.random() < 0.5))


def cut(pixels: NDArray[np.uint8], crop: Crop, image_size: int) -> NDArray[np.uint8]:
    """uint8 [image_size, image_size, 3]: bilinear; where it shrinks to less than half, by area, against aliasing."""
    box = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    shrinks = min(crop.width, crop.height) > 2 * image_size
    resized = cv2.resize(box, (image_size, image_size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    view: NDArray[np.uint8] = np.ascontiguousarray(resized[:, ::-1] if crop.flipped else resized)
    return view


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """Of what networks draw at random in a part of a step, for ``torch.manual_seed``: 63 bits.

    ``micro_batch``: its number in the batch, below 2^20. The counter keeps it apart from all of `random_generator`.
    """
    key = np.array([seed & _64_BITS, ((step << 20) + micro_batch) & _64_BITS], dtype=np.uint64)
    counter = np.array([0, 0, 0, 1], dtype=np.uint64)
    return int(np.random.Philox(key=key, counter=counter).random_raw()) >> 1
