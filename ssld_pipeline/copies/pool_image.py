"""A pool image as it is searched: its key points at two levels of care, and the pictures it is put together of."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ssld_pipeline.copies.features.sift import Chosen, KeyPoints
    from ssld_pipeline.copies.settings import SearchSettings

    Homography = npt.NDArray[np.float64]

# A second look, for what is doubtful: small copies within other pictures, hard crops, strong perspective.
_SECOND_KEYPOINTS = 2  # times as many as at first
# Small images are enlarged for it. Others are not looked at more closely: at 480 px instead of 400, with as many key
# points, of 485 extreme copies one more was found and of 970 hard ones two fewer, for 24 ms a look instead of 2.
_ENLARGED_SIDE = 1.2
_PANEL_SIZE = 0.6
# One that fills this share of the image, as in a photograph of a screen, is searched as a whole image is: of 2,300 hard
# and extreme copies that finds nine more.
_LARGE_PANEL = 0.4


class Look(NamedTuple):
    grey: npt.NDArray[np.uint8]
    keypoints: KeyPoints


class PoolImage:
    """The picture (uint8 [height, width, 3]) as it is searched; each look is taken once, and only if asked for."""

    def __init__(self, pixels: npt.NDArray[np.uint8], settings: SearchSettings) -> None:
        self._pixels, self.settings = pixels, settings

    @property
    def is_small(self) -> bool:
        """Smaller than it is looked at first: a second look must enlarge it to see more."""
        return bool(max(self._pixels.shape[:2]) < self.settings.image_side)

    @cached_property
    def panels(self) -> list[tuple[PoolImage, Homography]]:
        """The pictures that it is put together of, and where each lies: its own units of the longer side in these."""
        import numpy as np

        from ssld_pipeline.copies.candidates.panels import find_panels

        grey, longer = self.first_look.grey, max(self._pixels.shape[:2])
        panels = []
        for panel in find_panels(grey):
            is_large = panel.height * panel.width >= _LARGE_PANEL * grey.size
            settings = self.settings if is_large else _panel_settings(self.settings)
            top, bottom, left, right = (round(longer / max(grey.shape) * side) for side in panel)
            scale, x, y = (side / longer for side in (max(bottom - top, right - left), left, top))
            placed = np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]])
            panels.append((PoolImage(self._pixels[top:bottom, left:right], settings), placed))
        return panels

    @cached_property
    def _chosen(self) -> tuple[npt.NDArray[np.uint8], Chosen]:
        from ssld_pipeline.copies.features.sift import choose_blobs, resize_grey

        grey = resize_grey(self._pixels, self.settings.image_side)
        return grey, choose_blobs(grey, _SECOND_KEYPOINTS * self.settings.pool_keypoints)

    @cached_property
    def first_look(self) -> Look:
        from ssld_pipeline.copies.features.sift import describe_blobs

        grey, chosen = self._chosen
        budget = self.settings.pool_keypoints
        return Look(grey, describe_blobs(chosen, slice(budget), budget))

    @cached_property
    def second_look(self) -> Look:
        from ssld_pipeline.copies.features.sift import concatenate, describe_blobs, detect_keypoints, resize_grey

        budget = _SECOND_KEYPOINTS * self.settings.pool_keypoints
        if self.is_small:
            larger = resize_grey(self._pixels, round(_ENLARGED_SIDE * self.settings.image_side), enlarge=True)
            return Look(larger, detect_keypoints(larger, budget))
        (grey, first), (_, chosen) = self.first_look, self._chosen
        more = describe_blobs(chosen, slice(self.settings.pool_keypoints, None), budget - len(first))
        return Look(grey, concatenate((first, more)))


def _panel_settings(settings: SearchSettings) -> SearchSettings:
    """How one picture of a page is searched: it is small, and there are many. Of 186 in grids and on pages two fewer
    are found than by the settings of a whole image, in two thirds of the time."""
    return replace(
        settings,
        image_side=round(_PANEL_SIZE * settings.image_side),
        pool_keypoints=math.ceil(_PANEL_SIZE * settings.pool_keypoints),
        num_candidates=math.ceil(_PANEL_SIZE * settings.num_candidates),
        min_votes=settings.min_votes + 1,
    )
