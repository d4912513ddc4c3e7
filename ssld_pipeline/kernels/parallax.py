"""Is it another photograph of the same place? Then what one shows the other shows, too, but not where one transform
puts it: the camera stood elsewhere, or the shirt was laid down again.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ssld_pipeline.kernels.edges import Mask, Overlaid

_PART_PX = 16
_REACH_PX = 6
_MIN_PARTS = 6
_MIN_CONTRAST = 12.0  # standard deviation in grey levels
_MIN_CORRELATION = 0.85
_MIN_GAIN = 0.1  # over the correlation at the part's own place
_MIN_MOVE_PX = 3.0


def displaced_share(pictures: Overlaid, inside: Mask) -> float:
    """Share of the parts of the protected picture, of those with contrast, that the pool image shows 3 to 6 pixels
    from their place.

    ``pictures``: [128, 128], compared where ``inside``. 0 where fewer than six parts can be told.
    """
    pool, protected = pictures.smooth_pool, pictures.smooth_protected
    side = len(protected)
    num_parts = num_displaced = 0
    for top in range(_PART_PX // 2, side - _PART_PX, _PART_PX):
        for left in range(_PART_PX // 2, side - _PART_PX, _PART_PX):
            part = protected[top : top + _PART_PX, left : left + _PART_PX]
            if part.std() < _MIN_CONTRAST or not inside[top : top + _PART_PX, left : left + _PART_PX].all():
                continue
            above, before = min(top, _REACH_PX), min(left, _REACH_PX)
            around = pool[top - above : top + _PART_PX + _REACH_PX, left - before : left + _PART_PX + _REACH_PX]
            found = cv2.matchTemplate(around, part, cv2.TM_CCOEFF_NORMED)
            y, x = np.unravel_index(found.argmax(), found.shape)
            gain = found[y, x] - found[above, before]
            is_there = found[y, x] > _MIN_CORRELATION and gain > _MIN_GAIN
            num_parts += 1
            num_displaced += bool(is_there and math.hypot(y - above, x - before) >= _MIN_MOVE_PX)
    return num_displaced / num_parts if num_parts >= _MIN_PARTS else 0.0
