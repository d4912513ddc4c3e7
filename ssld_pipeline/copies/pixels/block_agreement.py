"""Do the pixels agree? The pool image is warped onto the protected one, and both are compared part by part.

Inlier counts alone call images with a common frame or watermark copies, at any threshold; pixels do not. Three looks
answer together, since each is fooled by something else:

* edges: what share of the protected image's gradients the pool image has, in direction, beyond what it would have by
  chance, which is measured by shifting it: text and patterns agree with themselves shifted. What is drawn over a
  picture hides some of its edges and leaves the others, where the correlation of a block is lost as a whole.
* blocks: in what share of blocks the grey levels correlate. Text of one layout has like edges, not like blocks.
* tones: how the blocks' means correlate. A watermark on two pictures has like edges and blocks, not like tones.

And the middle must agree by itself, and no region may be without any agreement: a frame, a page or a floor in common
is not enough. Where it is known what a picture has in common with others (``shared_edges``), the rest must agree alone.
A picture that was blurred is compared with the protected one blurred likewise (see ``blur``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.copies.compiled import compiled
from ssld_pipeline.copies.geometry.homography import longer_to_frame
from ssld_pipeline.copies.pixels.blur import likely_blur
from ssld_pipeline.copies.pixels.edges import Edges, Floats, Mask, Overlaid, edge_limits, find_edges
from ssld_pipeline.copies.pixels.occlusion import visible

Grey = npt.NDArray[np.uint8]
Homography = npt.NDArray[np.float64]

FRAME_SIDE_PX = 128
_CELL_PX = 8
_CELLS = FRAME_SIDE_PX // _CELL_PX
NUM_BLOCKS = _CELLS**2
# Edges.
MIN_COSINE = 0.85
_SHIFT_PX = 9
_MIN_EDGE_PIXELS = 6.0  # of a cell's 64, for it to be compared
_REGIONS = 4
_MIN_CELLS_PER_REGION = 3
_DEAD_AGREEMENT = 0.15
_MIDDLE_COUNTS = 1.4
_DEAD_COUNTS = 0.6
# From this score on a pair agrees in all there is, so that what it has in common with other pictures is not asked. Two
# pictures under one bold watermark reach .67; but a strip of one may be all there is, so that of a part of a picture
# smaller than the second what is its own is asked, if it is enough to tell.
_AGREES_IN_ALL = 0.8
_MOST = 0.5
_HIDDEN_COUNTS = 0.02
_MIN_VISIBLE_BLOCKS = 72
# What shows little is alike when it is blurred: drawn products of one outline reach .92 with up to 167 cells. Of 67
# copies that are known by this alone six have as few.
_MIN_BLURRED_BLOCKS = 170
# Blocks and tones.
_BLOCK_PX = 16
_MIN_CORRELATION = 0.8
_MIN_CONTRAST = 3.0  # standard deviation in grey levels
_MIN_TONES = 9
_MIN_SEEN = 0.4  # share of a cell
# Below the first nothing fits, above the second nothing is left to gain by alignment, which takes 2 ms.
_ALIGNED_BETWEEN = (0.2, 0.9)
_ALIGNMENT_STEPS = 15
_ALIGNMENT_SIDE_PX = 64


class Agreement(NamedTuple):
    """``score``: how well the comparable part agrees, in [0,1]. ``num_blocks``: of its 256 cells those with edges.

    ``coverage``: share of the protected image that the pool image shows.
    """

    score: float
    num_blocks: int
    coverage: float


class Comparison(NamedTuple):
    """``homography``: after alignment. ``pictures``: as they lie on each other then, where ``inside``; ``seen``: see
    ``visible``."""

    agreement: Agreement
    homography: Homography
    pictures: Overlaid
    inside: Mask
    seen: Mask


def protected_frame(grey: Grey) -> Grey:
    """uint8 [128, 128]: the whole image, its sides squeezed to the same length; what a pool image is compared with."""
    side = (FRAME_SIDE_PX, FRAME_SIDE_PX)
    return np.asarray(cv2.resize(grey, side, interpolation=cv2.INTER_AREA), np.uint8)


def compare_pixels(
    pool: Grey,
    frame: Grey | Floats,
    homography: Homography,
    protected_size: tuple[int, int],
    shared: Mask | None = None,
) -> Comparison:
    """How well ``pool`` agrees with the protected ``frame``.

    ``homography``: float64 [3, 3] from pool to protected positions in units of the longer sides. ``protected_size``:
    (width, height) of the protected image, in any unit. ``shared``: bool [128, 128], where the frame shows what other
    pictures show too; it counts only where the pictures agree in all and most of the protected one is shown.
    """
    target = frame.astype(np.float32)
    first = _compare_at(homography, pool, target, protected_size, shared)
    if not _ALIGNED_BETWEEN[0] <= first.agreement.score < _ALIGNED_BETWEEN[1]:
        return first
    aligned = _align(first.pictures.pool, target, first.seen, homography, protected_size)
    if aligned is None:
        return first
    second = _compare_at(aligned, pool, target, protected_size, shared)
    return second if second.agreement.score > first.agreement.score else first


def compare_through_blur(
    pool: Grey, frame: Grey, homography: Homography, protected_size: tuple[int, int], shared: Mask | None = None
) -> Comparison:
    """As ``compare_pixels``; but where the pool image is blurred, with the protected one blurred likewise, as it is
    in ``Comparison.pictures`` then."""
    as_it_is = compare_pixels(pool, frame, homography, protected_size, shared)
    if as_it_is.agreement.score >= _AGREES_IN_ALL:
        return as_it_is
    kernel = likely_blur(as_it_is.pictures, as_it_is.inside)
    if kernel is None:
        return as_it_is
    blurred = cv2.filter2D(as_it_is.pictures.protected, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    likewise = compare_pixels(pool, np.asarray(blurred, np.float32), as_it_is.homography, protected_size, shared)
    score, num_blocks, _ = likewise.agreement
    return likewise if score >= _AGREES_IN_ALL and num_blocks >= _MIN_BLURRED_BLOCKS else as_it_is


def _compare_at(
    homography: Homography, pool: Grey, target: Floats, protected_size: tuple[int, int], shared: Mask | None
) -> Comparison:
    warped, inside = warp_to_frame(pool, homography, protected_size)
    pictures = Overlaid(warped, target)
    seen = visible(pictures, inside, shared)
    return Comparison(_agree_where_it_counts(pictures, inside, shared, seen), homography, pictures, inside, seen)


def warp_to_frame(pool: Grey, homography: Homography, protected_size: tuple[int, int]) -> tuple[Floats, Mask]:
    """(float32, bool) [128, 128]: the pool image in the protected frame, and where it has pixels."""
    to_pool = np.asarray(np.linalg.inv(longer_to_frame(protected_size, FRAME_SIDE_PX) @ homography), np.float64)
    longer = max(pool.shape)
    small = _shrink(pool, _pool_pixels_per_step(to_pool) * longer)
    width, height = pool.shape[1] / longer, pool.shape[0] / longer
    x, y, inside = _places(to_pool, width, height, small.shape[1] / width, small.shape[0] / height)
    warped = cv2.remap(small, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.float32), inside


def _agree_where_it_counts(pictures: Overlaid, inside: Mask, shared: Mask | None, seen: Mask) -> Agreement:
    """As ``agree``; but where the pictures do not agree in all, what is shared must not speak for them, nor what is
    hidden in the pool image against them. ``seen``: what is neither."""
    everywhere = alone = agree(pictures, inside)
    own = inside
    if shared is not None:
        own = inside & ~shared
        alone = agree(pictures, own) if everywhere.score else everywhere
    tells = shared is not None and everywhere.coverage < _MOST and alone.num_blocks >= _MIN_VISIBLE_BLOCKS
    if everywhere.score >= _AGREES_IN_ALL and not tells:
        return everywhere
    # The lower of both: without its stripes a shirt is the floor it lies on, which others lie on, too.
    best = min(everywhere, alone, key=lambda found: found.score)
    if np.count_nonzero(seen) < (1 - _HIDDEN_COUNTS) * np.count_nonzero(own):
        rest = agree(pictures, seen)
        if rest.num_blocks >= _MIN_VISIBLE_BLOCKS and rest.score > best.score:
            best = rest
    return best._replace(coverage=everywhere.coverage)


def agree(pictures: Overlaid, inside: Mask) -> Agreement:
    """Agreement of two [128, 128] pictures where ``inside``; the protected one must be found in the pool image.

    What is seen of a cropped image is enlarged first, so that its parts weigh as those of a whole one.
    """
    coverage = float(inside.mean())
    compared, inside = _enlarge(pictures, inside)
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    if not inside.any():
        return Agreement(0.0, 0, coverage)
    edges, middle, dead, num_blocks = _compare_edges(compared, inside)
    if not num_blocks:
        return Agreement(0.0, 0, coverage)
    # Most transforms that chance proposes end here: no blocks and tones could help them.
    if min((edges + 2) / 3, _MIDDLE_COUNTS * middle) <= _DEAD_COUNTS * dead:
        return Agreement(0.0, num_blocks, coverage)
    blocks = _compare_blocks(compared.pool, compared.protected, inside)
    tones = _compare_tones(compared.pool, compared.protected, inside)
    score = min((edges + blocks + tones) / 3, _MIDDLE_COUNTS * middle) - _DEAD_COUNTS * dead
    return Agreement(float(min(max(score, 0.0), 1.0)), num_blocks, coverage)


class _Compared(NamedTuple):
    """Both pictures as they are compared, smooth, and their edges."""

    pool: Floats
    protected: Floats
    pool_edges: Edges
    protected_edges: Edges


def _compare_edges(compared: _Compared, inside: Mask) -> tuple[float, float, float, int]:
    """(agreement, that of the middle, share of dead regions, number of cells with edges)."""
    weak, strong = edge_limits(compared.protected_edges.length, inside)
    sums = _edge_sums(*compared.pool_edges, *compared.protected_edges, inside, weak, strong)
    with_edges = sums[0] >= _MIN_EDGE_PIXELS * weak
    weight, found, sideways, updown = _regions(np.where(with_edges, sums, 0))
    # Lines of text agree with themselves moved along, not moved across: the direction in which more agrees counts.
    chance = np.maximum(sideways, updown)
    per_region = (found - chance) / np.maximum(weight - chance, 1e-6)
    known = _regions(with_edges.astype(np.float64)) >= _MIN_CELLS_PER_REGION
    if not known.any():
        return 0.0, 0.0, 1.0, int(with_edges.sum())
    in_middle = np.zeros_like(known)
    in_middle[1:-1, 1:-1] = True
    in_middle &= known
    # One of the four may be hidden, by a sticker or a bar.
    middle = np.sort(per_region[in_middle if in_middle.any() else known])[-3:].mean()
    dead = (per_region[known] < _DEAD_AGREEMENT).mean()
    agreement = float((found - chance).sum()) / max(float((weight - chance).sum()), 1e-6)
    return agreement, float(middle), float(dead), int(with_edges.sum())


@compiled
def _edge_sums(
    pool_x: Floats,
    pool_y: Floats,
    pool_length: Floats,
    own_x: Floats,
    own_y: Floats,
    own_length: Floats,
    inside: Mask,
    weak: float,
    strong: float,
) -> npt.NDArray[np.float64]:
    """[4, 16, 16], per cell sums over the protected image's edges: their weights, of those found, of those found by
    chance in the pool image moved sideways, and moved up and down."""
    side = FRAME_SIDE_PX
    sums = np.zeros((4, _CELLS, _CELLS))
    # Directions of the pool image, three times side by side, so that a row moved sideways comes in again.
    unit_x, unit_y = np.zeros((side, 3 * side), np.float32), np.zeros((side, 3 * side), np.float32)
    for y in range(side):
        for x in range(side):
            scale = np.float32(1) / pool_length[y, x] if pool_length[y, x] > 0.1 else np.float32(0)
            unit_x[y, side + x], unit_y[y, side + x] = pool_x[y, x] * scale, pool_y[y, x] * scale
        for copied in (unit_x[y], unit_y[y]):
            copied[:side] = copied[2 * side :] = copied[side : 2 * side]
    weights, limits = np.empty(side, np.float32), np.empty(side, np.float32)
    found = np.empty(side, np.float32)
    for y in range(side):
        for x in range(side):
            counts = inside[y, x] and own_length[y, x] > weak
            weights[x] = min(own_length[y, x], np.float32(strong)) if counts else np.float32(0)
            limits[x] = np.float32(MIN_COSINE) * own_length[y, x]
        _add_cells(weights, 1.0, sums[0, y // _CELL_PX])
        for down, right, share, kind in (
            (0, 0, 1.0, 1),
            (0, _SHIFT_PX, 0.5, 2),
            (0, -_SHIFT_PX, 0.5, 2),
            (_SHIFT_PX, 0, 0.5, 3),
            (-_SHIFT_PX, 0, 0.5, 3),
        ):
            row = (y + down) % side
            along_x, along_y = unit_x[row, side + right :][:side], unit_y[row, side + right :][:side]
            for x in range(side):
                along = own_x[y, x] * along_x[x] + own_y[y, x] * along_y[x]
                found[x] = weights[x] if along > limits[x] else np.float32(0)
            _add_cells(found, share, sums[kind, y // _CELL_PX])
    return sums


@compiled
def _add_cells(row: Floats, share: float, cells: npt.NDArray[np.float64]) -> None:
    for cell in range(_CELLS):
        total = np.float32(0)
        for k in range(_CELL_PX):
            total += row[cell * _CELL_PX + k]
        cells[cell] += share * total


@compiled
def _compare_blocks(pool: Floats, protected: Floats, inside: Mask) -> float:
    """Share of the blocks with contrast whose grey levels correlate."""
    num_blocks = num_agreeing = 0
    for top in range(0, FRAME_SIDE_PX, _BLOCK_PX):
        for left in range(0, FRAME_SIDE_PX, _BLOCK_PX):
            num, a, b, aa, bb, ab = 0, 0.0, 0.0, 0.0, 0.0, 0.0
            for y in range(top, top + _BLOCK_PX):
                for x in range(left, left + _BLOCK_PX):
                    if inside[y, x]:
                        p, q = float(pool[y, x]), float(protected[y, x])
                        num, a, b, aa, bb, ab = num + 1, a + p, b + q, aa + p * p, bb + q * q, ab + p * q
            if num < 0.5 * _BLOCK_PX**2:
                continue
            variances = max(aa / num - (a / num) ** 2, 0.0), max(bb / num - (b / num) ** 2, 0.0)
            if max(variances) < _MIN_CONTRAST**2:
                continue
            covariance = ab / num - (a / num) * (b / num)
            num_blocks += 1
            num_agreeing += covariance > _MIN_CORRELATION * math.sqrt(max(variances[0] * variances[1], 1e-6))
    return num_agreeing / num_blocks if num_blocks else 0.0


@compiled
def _compare_tones(pool: Floats, protected: Floats, inside: Mask) -> float:
    """Correlation of the cells' means, at least 0."""
    means, known = np.empty((_CELLS**2, 2)), 0
    for top in range(0, FRAME_SIDE_PX, _CELL_PX):
        for left in range(0, FRAME_SIDE_PX, _CELL_PX):
            num, a, b = 0, 0.0, 0.0
            for y in range(top, top + _CELL_PX):
                for x in range(left, left + _CELL_PX):
                    if inside[y, x]:
                        num, a, b = num + 1, a + pool[y, x], b + protected[y, x]
            if num > _MIN_SEEN * _CELL_PX**2:
                means[known, 0], means[known, 1] = a / num, b / num
                known += 1
    if known < _MIN_TONES:
        return 0.0
    a, b = means[:known, 0] - means[:known, 0].mean(), means[:known, 1] - means[:known, 1].mean()
    variances = (a * a).mean(), (b * b).mean()
    if min(variances) < 1:
        return 0.0
    return max(0.0, float((a * b).mean() / math.sqrt(variances[0] * variances[1])))


def _align(
    warped: Floats, target: Floats, inside: Mask, homography: Homography, protected_size: tuple[int, int]
) -> Homography | None:
    """The homography that maximises the correlation of the pixels (Evangelidis and Psarakis, TPAMI 2008).

    None where it does not converge.
    """
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _ALIGNMENT_STEPS, 1e-3)
    start = np.eye(3, dtype=np.float32)
    size = (_ALIGNMENT_SIDE_PX, _ALIGNMENT_SIDE_PX)
    left, right, mask = (
        cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (warped, target, inside.astype(np.uint8))
    )
    try:
        _, found = cv2.findTransformECC(right, left, start, cv2.MOTION_HOMOGRAPHY, criteria, mask, 5)
    except cv2.error:
        return None
    to_frame = longer_to_frame(protected_size, _ALIGNMENT_SIDE_PX)
    aligned = np.linalg.inv(found.astype(np.float64) @ to_frame) @ to_frame @ homography
    return np.asarray(aligned / aligned[2, 2], np.float64) if abs(aligned[2, 2]) > 1e-6 else None


@compiled
def _places(
    to_pool: Homography, width: float, height: float, scale_x: float, scale_y: float
) -> tuple[Floats, Floats, Mask]:
    """[128, 128] each: x and y, in pixels of the pool image, behind each pixel of the frame, and whether the image has
    pixels there. ``width``, ``height``: its sides in units of the longer; scales: pixels per unit."""
    shape = (FRAME_SIDE_PX, FRAME_SIDE_PX)
    x, y, inside = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.bool_)
    for j in range(FRAME_SIDE_PX):
        for i in range(FRAME_SIDE_PX):
            u, v, depth = _moved(to_pool, i, j)
            inside[j, i] = depth > 1e-6 and 0 <= u < width and 0 <= v < height
            x[j, i], y[j, i] = u * scale_x - 0.5, v * scale_y - 0.5
    return x, y, inside


@compiled
def _moved(homography: Homography, x: float, y: float) -> tuple[float, float, float]:
    """The place, and its depth; one behind the camera is left as far away as if it had depth 1."""
    depth = homography[2, 0] * x + homography[2, 1] * y + homography[2, 2]
    by = depth if depth > 1e-6 else 1.0
    u = (homography[0, 0] * x + homography[0, 1] * y + homography[0, 2]) / by
    v = (homography[1, 0] * x + homography[1, 1] * y + homography[1, 2]) / by
    return u, v, depth


def _pool_pixels_per_step(to_pool: Homography) -> float:
    """Side of the pool area behind one pixel in the middle of the frame, in units of the pool's longer side."""
    middle = FRAME_SIDE_PX // 2
    here, across, down = (_moved(to_pool, middle + x, middle + y) for x, y in ((0, 0), (1, 0), (0, 1)))
    (x, y, _), (across_x, across_y, _), (down_x, down_y, _) = here, across, down
    return math.sqrt(abs((across_x - x) * (down_y - y) - (across_y - y) * (down_x - x)))


def _shrink(grey: Grey, step: float) -> Grey:
    """Averages over ``step`` pixels first, or samples so far apart would alias."""
    if step <= 1:
        return grey
    size = max(1, round(grey.shape[1] / step)), max(1, round(grey.shape[0] / step))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _enlarge(pictures: Overlaid, inside: Mask) -> tuple[_Compared, Mask]:
    """The bounding box of ``inside``, at the size of the frame; what is nearly whole is left as it is."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    smooth = pictures.smooth_pool, pictures.smooth_protected
    if min(len(rows), len(columns)) >= _BLOCK_PX:
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        if min(inside[box].shape) <= 0.9 * FRAME_SIDE_PX:
            size = (FRAME_SIDE_PX, FRAME_SIDE_PX)
            left, right = (np.asarray(cv2.resize(side[box], size), np.float32) for side in smooth)
            mask = cv2.resize(inside[box].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
            return _Compared(left, right, find_edges(left), find_edges(right)), mask
    return _Compared(*smooth, pictures.pool_edges, pictures.protected_edges), inside


def _regions(cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[..., 16, 16] summed to [..., 4, 4]."""
    side = _CELLS // _REGIONS
    return np.asarray(cells.reshape(*cells.shape[:-2], _REGIONS, side, _REGIONS, side).sum(axis=(-3, -1)))
