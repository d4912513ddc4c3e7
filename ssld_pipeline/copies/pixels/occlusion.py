"""What of the protected picture the pool image cannot show: darkened, lit or barred, or written and drawn over.

What is drawn is known by its edges, which are those of the pool image alone. In a picture that is no copy it is most of
what the pool image shows; hiding that does not make what the protected picture shows appear.
"""

from __future__ import annotations

import cv2
import numpy as np

from ssld_pipeline.copies.pixels.edges import Floats, Mask, Overlaid, quantile

# Grey levels up to and from which what a picture showed is lost.
_BLACK, _WHITE = 2.5, 252.5
# Strokes are drawn to be seen: at least so many grey levels per pixel, and this share of the strongest edges.
_MIN_STROKE = 6.0
_STROKE_SHARE = 0.25
_MAX_BELOW = 0.4  # share of a stroke's gradient that the protected picture may have there
_STROKE_PX = 5  # strokes and gaps between letters are that wide, at most
# Less than this share is no reason to look at the rest alone: other things on the same ground differ by as much.
_MIN_DRAWN = 0.15
# Nor is it if hardly more than this is left: of what the pool image shows, and of the whole protected picture.
_MIN_LEFT, _MIN_LEFT_OF_ALL = 0.4, 0.25


def visible(pictures: Overlaid, inside: Mask, shared: Mask | None) -> Mask:
    """bool [128, 128]: where the protected picture is not hidden in the pool image, and shows what is its own.

    ``pictures``: [128, 128], compared where ``inside``. ``shared``: where the protected one shows what others show too,
    None for nowhere.
    """
    own = inside if shared is None else inside & ~shared
    seen = own & ~_lost(pictures.pool, pictures.protected)
    drawn = _drawn_over(pictures, own)
    return seen if drawn is None else np.asarray(seen & ~drawn)


def _lost(pool: Floats, protected: Floats) -> Mask:
    """Where ``pool`` is black or white over more than a speck, and ``protected`` is not."""
    lost = ((pool <= _BLACK) & (protected > _BLACK)) | ((pool >= _WHITE) & (protected < _WHITE))
    return np.asarray(cv2.morphologyEx(lost.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0)


def _drawn_over(pictures: Overlaid, inside: Mask) -> Mask | None:
    """Where there are strokes; None if they cover too little of what is ``inside``, or leave too little of it."""
    num_inside = np.count_nonzero(inside)
    if not num_inside:
        return None
    theirs, own = pictures.pool_edges.length, pictures.protected_edges.length
    around = cv2.dilate(own, np.ones((5, 5), np.uint8))
    least = max(_MIN_STROKE, _STROKE_SHARE * quantile(theirs, inside, 0.95))
    edges = inside & (theirs > least) & (around < _MAX_BELOW * theirs)
    filled = cv2.morphologyEx(edges.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((_STROKE_PX, _STROKE_PX), np.uint8))
    drawn = cv2.dilate(filled, np.ones((3, 3), np.uint8)) > 0
    hidden = np.count_nonzero(drawn & inside)
    counts = _MIN_DRAWN <= hidden / num_inside <= 1 - _MIN_LEFT
    return drawn if counts and num_inside - hidden >= _MIN_LEFT_OF_ALL * inside.size else None
