"""The pictures that one image is put together of: a grid, a collage, a screenshot.

Cut along straight lines from side to side, again and again (the recursive X-Y cut of Nagy and Seth, ICPR 1984): where
the lines are of one grey level, as between the pictures of a page, or where all of a line differs from the one beside
it, as where two pictures touch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.compiled import compiled

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Chosen by eye, on pages, collages and single photographs with the parts drawn in.
_MAX_CUTS = 6
_MAX_PANELS = 64
_MIN_SIDE_PX = 24
_MAX_ASPECT = 4.0
# A part that is nearly the whole image is no part.
_MOST = 0.7
_PLAIN = 6.0  # grey levels, standard deviation along a line
_STEP = 12.0  # grey levels between the lines on both sides of a seam
_STEP_SHARE = 0.85  # of a seam


class Panel(NamedTuple):
    """Rows ``top`` to ``bottom``, columns ``left`` to ``right``, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


def find_panels(grey: Grey) -> list[Panel]:
    """The parts of ``grey`` (uint8 [height, width]) that may be pictures of their own, the largest first.

    A part that is cut further stands beside its parts: a picture may have straight lines, too.
    """
    height, width = grey.shape
    parts = _parts(grey.astype(np.float32), Panel(0, height, 0, width), _MAX_CUTS)
    panels = (part for part in parts if _may_be_picture(part) and part.height * part.width < _MOST * grey.size)
    return sorted(panels, key=lambda panel: (-panel.height * panel.width, panel))[:_MAX_PANELS]


def _may_be_picture(panel: Panel) -> bool:
    shorter, longer = sorted((panel.height, panel.width))
    return shorter >= _MIN_SIDE_PX and longer <= _MAX_ASPECT * shorter


def _parts(grey: Floats, panel: Panel, cuts_left: int) -> list[Panel]:
    """The panel without its margins, its parts, theirs and so on."""
    inner = np.ascontiguousarray(grey[panel.top : panel.bottom, panel.left : panel.right])
    across = np.ascontiguousarray(inner.T)
    for cut in (_between_plain_lines, _between_seams):
        parts = [
            Panel(panel.top + top, panel.top + bottom, panel.left + left, panel.left + right)
            for top, bottom in cut(inner)
            for left, right in cut(across)
        ]
        if parts != [panel]:
            break
    if not cuts_left or parts == [panel]:
        return [panel]
    large = [part for part in parts if min(part.height, part.width) >= _MIN_SIDE_PX]
    return [panel] * (len(parts) > 1) + [each for part in large for each in _parts(grey, part, cuts_left - 1)]


def _between_plain_lines(lines: Floats) -> list[tuple[int, int]]:
    """(start, end) of the runs of rows that are not of one grey level."""
    busy = np.r_[False, _spreads(lines) >= _PLAIN, False]
    changes = np.flatnonzero(busy[1:] != busy[:-1])
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))


def _between_seams(lines: Floats) -> list[tuple[int, int]]:
    """(start, end) of the runs of rows without a seam."""
    shares = _step_shares(lines)
    highest = (shares[1:-1] >= shares[:-2]) & (shares[1:-1] > shares[2:])
    seams = 1 + np.flatnonzero((shares[1:-1] > _STEP_SHARE) & highest)
    return list(pairwise([0, *seams.tolist(), len(lines)]))


@compiled
def _spreads(lines: Floats) -> npt.NDArray[np.float64]:
    """[rows]: the standard deviation along each."""
    spreads = np.empty(len(lines))
    for y in range(len(lines)):
        spreads[y] = lines[y].std()
    return spreads


@compiled
def _step_shares(lines: Floats) -> npt.NDArray[np.float64]:
    """[rows + 1]: the share of each row along which the two beside it differ, since shrinking an image spreads a seam
    over two steps; 0 at both ends."""
    shares = np.zeros(len(lines) + 1)
    for y in range(1, len(lines) - 1):
        num = 0
        for x in range(lines.shape[1]):
            num += abs(lines[y + 1, x] - lines[y - 1, x]) > _STEP
        shares[y] = num / lines.shape[1]
    return shares
