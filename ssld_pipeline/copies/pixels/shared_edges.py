"""Where a picture shows what another one shows too: a watermark, a frame, a page's layout, the same floor.

Found pixel by pixel on pictures of which it is known that they are no copies of each other; what they have in common
then tells neither from the other.
"""

from __future__ import annotations

import cv2
import numpy as np

from ssld_pipeline.copies.pixels.block_agreement import MIN_COSINE
from ssld_pipeline.copies.pixels.edges import Floats, Mask, edge_limits, find_edges, smooth

# A watermark's edges are as strong on one picture as on another, but for what lies below.
_MAX_RATIO = 3.0
# Edges agree in direction by chance in one of five; of those around a pixel so many must agree.
_WINDOW_PX = 7
_MIN_SHARE = 0.7


def shared_edges(left: Floats, right: Floats, inside: Mask) -> Mask:
    """bool [128, 128]: the edges of ``right``, and what is next to them, that ``left`` has in the same place.

    ``left``, ``right``: float32 [128, 128], grey levels; ``inside``: where ``left`` has pixels.
    """
    (their_x, their_y, theirs), (own_x, own_y, own) = (find_edges(smooth(image)) for image in (left, right))
    weak, strong = edge_limits(own, np.ones_like(inside))
    edges = (own > weak) & (_eroded(inside))
    along = their_x * own_x + their_y * own_y > MIN_COSINE * theirs * own
    same = edges & along & (theirs * _MAX_RATIO > own) & (own * _MAX_RATIO > theirs)
    weights = np.minimum(own, strong)
    around, agreeing = (_summed(np.where(which, weights, 0)) for which in (edges, same))
    next_to_edges = cv2.dilate(edges.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.asarray(next_to_edges & (agreeing > _MIN_SHARE * around))


def _eroded(mask: Mask) -> Mask:
    return np.asarray(cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0)


def _summed(image: Floats) -> Floats:
    window = (_WINDOW_PX, _WINDOW_PX)
    return np.asarray(cv2.boxFilter(image.astype(np.float32), -1, window, normalize=False), np.float32)
