"""The transform between two sets of matched key points: every match proposes one, least squares refines the best.

A key point has a place, a size and an orientation, so one match fixes a similarity (Lowe, IJCV 2004, section 7.4):
no random sampling. Points are complex numbers here: a similarity is q = c p + t, and mirroring is conjugation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ssld_pipeline.kernels.sift import KeyPoints

Affine = npt.NDArray[np.float64]

_TOLERANCE = 0.02  # of the protected image's longer side: 5 pixels of 256
_REFINED_TOLERANCE = 0.012
_MAX_LOG_SCALE = np.log(1.6)
_MAX_ANGLE = np.deg2rad(30)
_NUM_REFINED = 2
_MIN_AGREEING = 4
_DISTINCT_CELL = 0.012
_MAX_ZOOM = 16.0
_MAX_STRETCH = 2.5


@dataclass(frozen=True)
class Transform:
    """``affine``: float64 [2, 3] from pool to protected positions, both in units of the longer side.

    ``inliers``: row numbers of the agreeing matches. ``num_inliers`` counts them at distinct positions.
    """

    affine: Affine
    inliers: npt.NDArray[np.int64]
    num_inliers: int

    @property
    def homography(self) -> Affine:
        """float64 [3, 3]: ``affine`` with its last row."""
        return np.vstack((self.affine, (0.0, 0.0, 1.0)))


def estimate_transform(pool: KeyPoints, protected: KeyPoints) -> Transform | None:
    """The transform most matches agree with; row i of ``pool`` matches row i of ``protected``. None if none is sane."""
    if len(pool) < _MIN_AGREEING:
        return None
    flips = pool.mirrored != protected.mirrored
    agree = _agreement(pool, protected, flips)
    if agree.sum(axis=1).max() < _MIN_AGREEING:
        return None
    best = np.argsort(-agree.sum(axis=1), kind="stable")[:_NUM_REFINED]
    found = [t for row in best if (t := _refine(pool.positions, protected.positions, flips, agree[row], flips[row]))]
    return max(found, key=lambda t: t.num_inliers, default=None)


def _agreement(pool: KeyPoints, protected: KeyPoints, flips: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """[n, n]: does match j agree with the similarity that match i proposes?"""
    p, q = _as_complex(pool.positions), _as_complex(protected.positions)
    p = np.where(flips, p.conj(), p)
    turn = protected.angles - np.where(flips, -pool.angles, pool.angles)
    log_c = np.log(protected.sizes / np.maximum(pool.sizes, 1e-9)) + 1j * turn
    c = np.exp(log_c)
    residual = np.abs(c[:, None] * (p[None] - p[:, None]) - (q[None] - q[:, None]))
    relative = log_c[None] - log_c[:, None]
    angle = np.abs((relative.imag + np.pi) % (2 * np.pi) - np.pi)
    # Where the pool image is shown enlarged, so is the error of its key points.
    near = residual <= _TOLERANCE * np.maximum(1, np.abs(c))[:, None]
    alike = (np.abs(relative.real) <= _MAX_LOG_SCALE) & (angle <= _MAX_ANGLE)
    return np.asarray(near & alike & (flips[None] == flips[:, None]))


def _refine(
    p: npt.NDArray[np.float32],
    q: npt.NDArray[np.float32],
    flips: npt.NDArray[np.bool_],
    agree: npt.NDArray[np.bool_],
    flipped: np.bool_,
) -> Transform | None:
    affine = None
    for _ in range(3):
        fitted = fit_affine(p[agree], q[agree])
        if fitted is None or not _is_sane(fitted, bool(flipped)):
            break
        affine = fitted
        zoom = np.sqrt(abs(np.linalg.det(affine[:, :2])))
        error = np.linalg.norm(apply_affine(affine, p) - q, axis=1)
        agree = (error <= _REFINED_TOLERANCE * max(1.0, zoom)) & (flips == flipped)
    if affine is None:
        return None
    inliers = np.flatnonzero(agree)
    return Transform(affine, inliers, min(_count_distinct(p[inliers]), _count_distinct(q[inliers])))


def fit_affine(p: npt.NDArray[np.float32], q: npt.NDArray[np.float32]) -> Affine | None:
    """Least-squares affine [2, 3] with A p = q; None from fewer than three points or from points on one line."""
    if len(p) < 3:
        return None
    design = np.column_stack((p, np.ones(len(p)))).astype(np.float64)
    solution, _, rank, _ = np.linalg.lstsq(design, q.astype(np.float64), rcond=1e-4)
    return np.asarray(solution.T, np.float64) if rank == 3 else None


def apply_affine(affine: Affine, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[n, 2]: the images of ``points`` [n, 2]."""
    return np.asarray(points @ affine[:, :2].T + affine[:, 2])


def pixel_homography(unit: Affine, pool_size: tuple[int, int], protected_size: tuple[int, int]) -> Affine:
    """float64 [3, 3] from pool to protected pixels (centres at whole numbers), given (width, height) of both.

    ``unit``: the same homography in units of the longer sides.
    """
    pixels = _from_unit(protected_size) @ unit @ np.linalg.inv(_from_unit(pool_size))
    return np.asarray(pixels / pixels[2, 2], np.float64)


def _from_unit(size: tuple[int, int]) -> Affine:
    longer = float(max(size))
    return np.array([[longer, 0, -0.5], [0, longer, -0.5], [0, 0, 1]])


def _as_complex(positions: npt.NDArray[np.float32]) -> npt.NDArray[np.complex128]:
    return np.asarray(positions[:, 0] + 1j * positions[:, 1].astype(np.float64))


def _is_sane(affine: Affine, flipped: bool) -> bool:
    """Mirrored as its matches say, and neither enlarged nor stretched beyond what makes a copy."""
    largest, smallest = np.linalg.svd(affine[:, :2], compute_uv=False)
    if (np.linalg.det(affine[:, :2]) < 0) != flipped or smallest <= 0:
        return False
    return bool(largest / smallest <= _MAX_STRETCH and smallest >= 1 / _MAX_ZOOM and largest <= _MAX_ZOOM)


def _count_distinct(points: npt.NDArray[np.float32]) -> int:
    """Positions further apart than three pixels of 256: several orientations of one point count once."""
    cells = np.floor(points / _DISTINCT_CELL).astype(np.int64)
    return len(np.unique(cells[:, 0] * (1 << 32) + cells[:, 1]))
