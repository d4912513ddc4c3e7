"""Where two pictures differ: the pool image in the protected frame, less the protected image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.geometry.homography import Size, resized_pixels, zoom
from ssld_pipeline.copies.geometry.transform import Array
from ssld_pipeline.kernels.images import Pixels

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FULL_HEAT = 80
"""Grey levels from which on a difference is as hot as can be shown."""
_SMOOTHING_PX = 0.8  # a copy half a pixel off is not different at every edge
_GAINS = (0.4, 2.5)
_MIN_CONTRAST = 4.0
_KEPT = 0.7  # share of the pixels, the most alike, that a fit is repeated on
_FAINT = 10  # grey levels below which JPEG and resampling differ, too
# Yellow over orange to dark red, readable on light grey (ColorBrewer YlOrRd, from its third colour on).
_HEAT = np.array([[254, 217, 118], [254, 178, 76], [253, 141, 60], [252, 78, 42], [227, 26, 28], [177, 0, 38]], float)


@dataclass(frozen=True)
class Difference:
    """``pixels``: uint8 [H, W, 4] RGBA in the protected frame, transparent where the pool image has no pixels.
    ``mean``: absolute, over what both show, grey levels."""

    pixels: Pixels
    mean: float


def difference(pool: Grey, protected: Grey, h: Array) -> Difference | None:
    """Heat over grey; ``h`` maps pixels of ``pool`` to those of ``protected``. None where they share no pixel.

    Brightness and contrast of the pool image are fitted first, or a brightened copy would be hot all over.
    """
    warped, inside = warp(pool, h, (protected.shape[1], protected.shape[0]))
    if not inside.any():
        return None
    target = _smooth(protected.astype(np.float32))
    apart = np.abs(_fitted(_smooth(warped), target, inside) - target)
    colours = _heat_over_grey(protected, apart)
    alpha = np.where(inside, 255, 0)[:, :, None]
    colours[~inside] = 255  # what cannot be seen costs least when it is flat
    return Difference(np.concatenate((colours, alpha), axis=2).astype(np.uint8), float(apart[inside].mean()))


def warp(pool: Grey, h: Array, size: Size) -> tuple[Floats, Mask]:
    """(float32 [H, W], bool [H, W]): ``pool`` in a frame of ``size`` (width, height), and where it has pixels."""
    source, to_frame = _reduced(pool, h, size)
    warped = cv2.warpPerspective(source.astype(np.float32), to_frame, size, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpPerspective(np.ones_like(source), to_frame, size, flags=cv2.INTER_NEAREST)
    return np.asarray(warped, np.float32), np.asarray(inside > 0)


def _reduced(pool: Grey, h: Array, size: Size) -> tuple[Grey, Array]:
    """``pool`` averaged to about the frame's resolution, so that the warp does not alias, and the map from there."""
    height, width = pool.shape
    middle = np.array([width / 2, height / 2, 1.0])
    depth = float(h[2] @ middle)
    scale = min(1.0, float(zoom(h, np.array(depth)))) if depth else 1.0
    small = max(1, round(width * scale)), max(1, round(height * scale))
    if small == (width, height):
        return pool, h
    reduced = np.asarray(cv2.resize(pool, small, interpolation=cv2.INTER_AREA), np.uint8)
    return reduced, h @ resized_pixels(small, (width, height))


def _smooth(image: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _SMOOTHING_PX), np.float32)


def _fitted(warped: Floats, target: Floats, inside: Mask) -> Floats:
    """``warped`` with the brightness and, within bounds, the contrast of ``target``, by least squares over most of what
    both show: what was written on one of them is left out of the second fit."""
    ours, theirs = warped[inside], target[inside]
    kept = np.ones(len(ours), np.bool_)
    for _ in range(3):
        a, b = ours[kept], theirs[kept]
        spread = float(((a - a.mean()) ** 2).mean())
        slope = float(((a - a.mean()) * (b - b.mean())).mean() / max(spread, _MIN_CONTRAST**2))
        # A picture's negative differs in nothing else.
        gain = -float(np.clip(-slope, *_GAINS)) if slope < -_GAINS[0] else float(np.clip(slope, *_GAINS))
        offset = float(b.mean() - gain * a.mean())
        apart = np.abs(gain * ours + offset - theirs)
        kept = apart <= np.quantile(apart, _KEPT)
    return np.asarray(gain * warped + offset, np.float32)


def _heat_over_grey(grey: Grey, apart: Floats) -> npt.NDArray[np.float64]:
    """[H, W, 3]: the picture pale and grey, covered the more the further ``apart`` (grey levels)."""
    pale = (130 + grey.astype(float) * (115 / 255))[:, :, None].repeat(3, axis=2)
    heat = np.clip(apart / FULL_HEAT, 0, 1)
    steps = np.linspace(0, 1, len(_HEAT))
    colour = np.stack([np.interp(heat, steps, _HEAT[:, c]) for c in range(3)], axis=2)
    cover = np.clip((apart - _FAINT) / (FULL_HEAT / 2 - _FAINT), 0, 1)[:, :, None] * 0.92
    return np.asarray(pale * (1 - cover) + colour * cover)
