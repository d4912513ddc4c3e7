"""What the search found on a pool image and one protected image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Evidence:
    """Measurements of a pool image against protected image number ``protected`` of an index.

    ``method``: sift, or perceptual for whole-picture likeness. ``homography``: [3, 3], pool to protected, in units of
    the longer sides. ``score``: how well the pixels agree, in [0,1], over ``num_blocks`` of 256 cells, those with
    edges. ``coverage``: share of the protected image that the pool image shows. ``explained``: see
    ``copies.pixels.tone_curve``.
    """

    protected: int
    method: str
    num_matches: int
    num_inliers: int
    score: float
    num_blocks: int
    coverage: float
    homography: npt.NDArray[np.float64]
    explained: float = 0.0
    is_other: bool = False
    """Another photograph of the same place."""
