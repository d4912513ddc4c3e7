"""Is it another photograph of the same place? It shows what the first one shows, but not where a transform puts it: the
camera stood elsewhere, so that what is near moved before what is far; or the shirt was laid down again. Nor do its
edges tell where along them a part lies, since what lies on them differs.

A copy may be bent, too, by a lens or a screen, but then it is bent smoothly. Noise on stripes is taken for movement:
key points must fit badly, too, for this to count (see ``copies.search``).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.pixels.edges import Mask, Overlaid

_PART_PX = 16
_REACH_PX = 6
_MIN_CONTRAST = 12.0  # standard deviation in grey levels
_MIN_CORRELATION = 0.9
_MIN_FOUND = 12
_FIT_STEPS = 8
_LEAST_DISTANCE_PX = 0.5


def unsteadiness(pictures: Overlaid, inside: Mask) -> float:
    """Mean distance, in pixels, of the parts of the protected picture from where one smooth warp, of second order,
    puts them in the pool image.

    ``pictures``: [128, 128], compared where ``inside``; parts are looked for up to 6 pixels from their place. 0 where
    fewer than twelve are found.
    """
    places, moves = _find_parts(pictures.smooth_pool, pictures.smooth_protected, inside)
    if len(places) < _MIN_FOUND:
        return 0.0
    y, x = (places / len(inside) - 0.5).T
    terms = np.column_stack((np.ones(len(y)), y, x, y * y, y * x, x * x))
    weights = np.ones((len(y), 1))
    for _ in range(_FIT_STEPS):  # reweighted, so that the distances count and not their squares: most parts decide
        warp = np.linalg.lstsq(weights * terms, weights * moves, rcond=None)[0]
        distances = np.linalg.norm(terms @ warp - moves, axis=1)
        weights = 1 / np.sqrt(np.maximum(distances, _LEAST_DISTANCE_PX))[:, None]
    return float(distances.mean())


def _find_parts(
    pool: npt.NDArray[np.float32], protected: npt.NDArray[np.float32], inside: Mask
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(places, moves), [n, 2] each, rows first: of the parts with contrast that are found."""
    places, moves = [], []
    for top in range(_PART_PX // 2, len(protected) - _PART_PX, _PART_PX):
        for left in range(_PART_PX // 2, len(protected) - _PART_PX, _PART_PX):
            own = slice(top, top + _PART_PX), slice(left, left + _PART_PX)
            if protected[own].std() < _MIN_CONTRAST or not inside[own].all():
                continue
            around = pool[top - _REACH_PX : top + _PART_PX + _REACH_PX, left - _REACH_PX : left + _PART_PX + _REACH_PX]
            likeness = cv2.matchTemplate(around, protected[own], cv2.TM_CCOEFF_NORMED)
            _, correlation, _, (x, y) = cv2.minMaxLoc(likeness)
            if correlation > _MIN_CORRELATION:
                places.append((top, left))
                moves.append((y - _REACH_PX, x - _REACH_PX))
    return np.array(places, np.float64), np.array(moves, np.float64)
