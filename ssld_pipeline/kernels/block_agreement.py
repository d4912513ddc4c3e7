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
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ssld_pipeline.kernels.compiled import compiled
from ssld_pipeline.kernels.edges import Floats, Mask, edge_limits, gradients, smooth
from ssld_pipeline.kernels.visible import visible

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


def protected_frame(grey: Grey) -> Grey:
    """uint8 [128, 128]: the whole image, its sides squeezed to the same length; what a pool image is compared with."""
    side = (FRAME_SIDE_PX, FRAME_SIDE_PX)
    return np.asarray(cv2.resize(grey, side, interpolation=cv2.INTER_AREA), np.uint8)


def compare_pixels(
    pool: Grey, frame: Grey, homography: Homography, protected_size: tuple[int, int], shared: Mask | None = None
) -> tuple[Agreement, Homography]:
    """How well ``pool`` agrees with the protected ``frame``, and the homography after alignment.

    ``homography``: float64 [3, 3] from pool to protected positions in units of the longer sides. ``protected_size``:
    (width, height) of the protected image, in any unit. ``shared``: bool [128, 128], where the frame shows what other
    pictures show too; it counts only where the pictures agree in all and most of the protected one is shown.
    """
    target = frame.astype(np.float32)
    warped, inside = warp_to_frame(pool, homography, protected_size)
    seen = visible(warped, target, inside, shared)
    first = _agree_where_it_counts(warped, target, inside, shared, seen)
    if not _ALIGNED_BETWEEN[0] <= first.score < _ALIGNED_BETWEEN[1]:
        return first, homography
    aligned = _align(warped, target, seen, homography, protected_size)
    if aligned is None:
        return first, homography
    warped, inside = warp_to_frame(pool, aligned, protected_size)
    second = _agree_where_it_counts(warped, target, inside, shared, visible(warped, target, inside, shared))
    return (second, aligned) if second.score > first.score else (first, homography)


def warp_to_frame(pool: Grey, homography: Homography, protected_size: tuple[int, int]) -> tuple[Floats, Mask]:
    """(float32, bool) [128, 128]: the pool image in the protected frame, and where it has pixels."""
    to_pool = np.asarray(np.linalg.inv(_unit_to_frame(protected_size) @ homography), np.float64)
    height, width = pool.shape
    longer = max(width, height)
    to_unit = _places(to_pool)
    source = to_unit[:2]
    unit = np.array([width, height], np.float64) / longer
    inside = (to_unit[2] > 0) & ((source >= 0) & (source < unit[:, None, None])).all(axis=0)
    small = _shrink(pool, _pool_pixels_per_step(source) * longer)
    scale = np.array([small.shape[1], small.shape[0]]) / unit
    grid = (source * scale[:, None, None] - 0.5).astype(np.float32)
    warped = cv2.remap(small, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.float32), inside


def _agree_where_it_counts(left: Floats, right: Floats, inside: Mask, shared: Mask | None, seen: Mask) -> Agreement:
    """As ``agree``; but where the pictures do not agree in all, what is shared must not speak for them, nor what is
    hidden in ``left`` against them. ``seen``: what is neither."""
    everywhere = alone = agree(left, right, inside)
    own = inside
    if shared is not None:
        own = inside & ~shared
        alone = agree(left, right, own) if everywhere.score else everywhere
    tells = shared is not None and everywhere.coverage < _MOST and alone.num_blocks >= _MIN_VISIBLE_BLOCKS
    if everywhere.score >= _AGREES_IN_ALL and not tells:
        return everywhere
    # The lower of both: without its stripes a shirt is the floor it lies on, which others lie on, too.
    best = min(everywhere, alone, key=lambda found: found.score)
    if seen.sum() < (1 - _HIDDEN_COUNTS) * own.sum():
        rest = agree(left, right, seen)
        if rest.num_blocks >= _MIN_VISIBLE_BLOCKS and rest.score > best.score:
            best = rest
    return best._replace(coverage=everywhere.coverage)


def agree(left: Floats, right: Floats, inside: Mask) -> Agreement:
    """Agreement of two [128, 128] images where ``inside``; ``right`` is the one that must be found in ``left``.

    What is seen of a cropped image is enlarged first, so that its parts weigh as those of a whole one.
    """
    coverage = float(inside.mean())
    pool, protected, inside = _enlarge(smooth(left), smooth(right), inside)
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0
    if not inside.any():
        return Agreement(0.0, 0, coverage)
    edges, middle, dead, num_blocks = _compare_edges(pool, protected, inside)
    if not num_blocks:
        return Agreement(0.0, 0, coverage)
    # Most transforms that chance proposes end here: no blocks and tones could help them.
    if min((edges + 2) / 3, _MIDDLE_COUNTS * middle) <= _DEAD_COUNTS * dead:
        return Agreement(0.0, num_blocks, coverage)
    together = (edges + _compare_blocks(pool, protected, inside) + _compare_tones(pool, protected, inside)) / 3
    score = min(together, _MIDDLE_COUNTS * middle) - _DEAD_COUNTS * dead
    return Agreement(float(min(max(score, 0.0), 1.0)), num_blocks, coverage)


def _compare_edges(pool: Floats, protected: Floats, inside: Mask) -> tuple[float, float, float, int]:
    """(agreement, that of the middle, share of dead regions, number of cells with edges)."""
    (pool_x, pool_y), (protected_x, protected_y) = (gradients(image) for image in (pool, protected))
    weak, strong = edge_limits(np.hypot(protected_x, protected_y)[inside])
    sums = _edge_sums(pool_x, pool_y, protected_x, protected_y, inside, weak, strong)
    with_edges = sums[0] >= _MIN_EDGE_PIXELS * weak
    weight, found, sideways, updown = (_regions(np.where(with_edges, one, 0)) for one in sums)
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
    protected_x: Floats,
    protected_y: Floats,
    inside: Mask,
    weak: float,
    strong: float,
) -> npt.NDArray[np.float64]:
    """[4, 16, 16], per cell sums over the protected image's edges: their weights, of those found, of those found by
    chance in the pool image moved sideways, and moved up and down."""
    sums = np.zeros((4, _CELLS, _CELLS))
    side = FRAME_SIDE_PX
    for y in range(side):
        for x in range(side):
            if not inside[y, x]:
                continue
            gx, gy = protected_x[y, x], protected_y[y, x]
            length = np.sqrt(gx * gx + gy * gy)
            if length <= weak:
                continue
            weight, row, column = min(length, strong), y // _CELL_PX, x // _CELL_PX
            sums[0, row, column] += weight
            for k in range(5):
                j = (y + (0, _SHIFT_PX, -_SHIFT_PX, 0, 0)[k]) % side
                i = (x + (0, 0, 0, _SHIFT_PX, -_SHIFT_PX)[k]) % side
                hx, hy = pool_x[j, i], pool_y[j, i]
                other = np.sqrt(hx * hx + hy * hy)
                if other > 0.1 and gx * hx + gy * hy > MIN_COSINE * length * other:
                    if k == 0:
                        sums[1, row, column] += weight
                    else:
                        sums[2 if k > 2 else 3, row, column] += 0.5 * weight
    return sums


def _compare_blocks(pool: Floats, protected: Floats, inside: Mask) -> float:
    """Share of the blocks with contrast whose grey levels correlate."""
    weights = _blocks(inside.astype(np.float32))
    count = np.maximum(weights.sum(axis=1), 1)
    (a, var_a), (b, var_b) = (_centred(_blocks(image), weights, count) for image in (pool, protected))
    covariance = (a * b).sum(axis=1) / count
    agrees = covariance > _MIN_CORRELATION * np.sqrt(np.maximum(var_a * var_b, 1e-6))
    comparable = (count >= 0.5 * _BLOCK_PX**2) & (np.maximum(var_a, var_b) >= _MIN_CONTRAST**2)
    return float(agrees[comparable].mean()) if comparable.any() else 0.0


def _compare_tones(pool: Floats, protected: Floats, inside: Mask) -> float:
    """Correlation of the cells' means, at least 0."""
    size = (_CELLS, _CELLS)
    seen = cv2.resize(inside.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    known = seen > _MIN_SEEN
    sums = (cv2.resize(image * inside, size, interpolation=cv2.INTER_AREA)[known] for image in (pool, protected))
    a, b = (each / seen[known] for each in sums)
    if len(a) < _MIN_TONES or min(a.std(), b.std()) < 1:
        return 0.0
    return max(0.0, float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std())))


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
    to_frame = _unit_to_frame(protected_size, _ALIGNMENT_SIDE_PX)
    aligned = np.linalg.inv(found.astype(np.float64) @ to_frame) @ to_frame @ homography
    return np.asarray(aligned / aligned[2, 2], np.float64) if abs(aligned[2, 2]) > 1e-6 else None


def _unit_to_frame(protected_size: tuple[int, int], side_px: int = FRAME_SIDE_PX) -> Homography:
    """From positions in units of the longer side to pixels of the frame, centres at whole numbers."""
    x, y = (side_px * max(protected_size) / side for side in protected_size)
    return np.array([[x, 0, -0.5], [0, y, -0.5], [0, 0, 1]])


@compiled
def _places(to_pool: Homography) -> npt.NDArray[np.float64]:
    """[3, 128, 128]: x and y behind each pixel of the frame, and 1 where it lies before the camera, else 0."""
    places = np.empty((3, FRAME_SIDE_PX, FRAME_SIDE_PX))
    for y in range(FRAME_SIDE_PX):
        for x in range(FRAME_SIDE_PX):
            depth = to_pool[2, 0] * x + to_pool[2, 1] * y + to_pool[2, 2]
            places[2, y, x] = depth > 1e-6
            if depth <= 1e-6:
                depth = 1.0
            places[0, y, x] = (to_pool[0, 0] * x + to_pool[0, 1] * y + to_pool[0, 2]) / depth
            places[1, y, x] = (to_pool[1, 0] * x + to_pool[1, 1] * y + to_pool[1, 2]) / depth
    return places


def _pool_pixels_per_step(source: npt.NDArray[np.float64]) -> float:
    """Side of the pool area behind one pixel in the middle of the frame, in units of the pool's longer side."""
    middle = FRAME_SIDE_PX // 2
    across = source[:, middle, middle + 1] - source[:, middle, middle]
    down = source[:, middle + 1, middle] - source[:, middle, middle]
    return float(np.sqrt(abs(across[0] * down[1] - across[1] * down[0])))


def _shrink(grey: Grey, step: float) -> Grey:
    """Averages over ``step`` pixels first, or samples so far apart would alias."""
    if step <= 1:
        return grey
    size = max(1, round(grey.shape[1] / step)), max(1, round(grey.shape[0] / step))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _enlarge(pool: Floats, protected: Floats, inside: Mask) -> tuple[Floats, Floats, Mask]:
    """The bounding box of ``inside``, at the size of the frame; what is nearly whole is left as it is."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows) < _BLOCK_PX or len(columns) < _BLOCK_PX:
        return pool, protected, inside
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    if min(inside[box].shape) > 0.9 * FRAME_SIDE_PX:
        return pool, protected, inside
    size = (FRAME_SIDE_PX, FRAME_SIDE_PX)
    left, right = (np.asarray(cv2.resize(side[box], size), np.float32) for side in (pool, protected))
    return left, right, cv2.resize(inside[box].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def _regions(cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[16, 16] summed to [4, 4]."""
    side = _CELLS // _REGIONS
    return np.asarray(cells.reshape(_REGIONS, side, _REGIONS, side).sum(axis=(1, 3)))


def _blocks(image: Floats) -> Floats:
    """[128, 128]: one row of 256 pixels per block."""
    n = FRAME_SIDE_PX // _BLOCK_PX
    return image.reshape(n, _BLOCK_PX, n, _BLOCK_PX).transpose(0, 2, 1, 3).reshape(n * n, _BLOCK_PX**2)


def _centred(blocks: Floats, weights: Floats, count: Floats) -> tuple[Floats, Floats]:
    """Blocks less their means, and their variances; each over the weighted pixels."""
    mean = (blocks * weights).sum(axis=1) / count
    centred = (blocks - mean[:, None]) * weights
    return centred, (centred**2).sum(axis=1) / count
