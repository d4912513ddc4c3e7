"""Homographies, and the units of length that they connect.

Every matrix is float64 [3, 3] and maps columns (x, y, 1). A place in an image is given in one of four units:

* longer: the longer side is 1; what the search works in.
* square: both sides are 1.
* frame: pixels of the image squeezed to a square, centres at whole numbers.
* pixels: of the image itself, centres at whole numbers.

Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Size = tuple[int, int]


def project(homography: Matrix, points: npt.NDArray[np.float64]) -> tuple[Matrix, npt.NDArray[np.float64]]:
    """``points`` [n, 2] through the homography, and the depth [n] of each: of both signs where the horizon runs between
    them."""
    x, y, depth = homography @ np.vstack((points.T, np.ones(len(points))))
    return np.column_stack((x / depth, y / depth)), depth


def zoom(homography: Matrix, depth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How many times longer a short line becomes, where the depth is ``depth``: the root of the growth of an area."""
    return np.asarray(np.sqrt(abs(np.linalg.det(homography)) / np.abs(depth) ** 3))


def longer_units(size: Size) -> tuple[float, float]:
    """Width and height where the longer side is 1."""
    return size[0] / max(size), size[1] / max(size)


def corners(size: tuple[float, float]) -> Matrix:
    """[4, 2], clockwise from the origin, in the unit of ``size``."""
    width, height = size
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)


def longer_to_pixels(size: Size) -> Matrix:
    longer = float(max(size))
    return np.array([[longer, 0, -0.5], [0, longer, -0.5], [0, 0, 1]])


def longer_to_frame(size: Size, side_px: int) -> Matrix:
    x, y = (side_px * max(size) / side for side in size)
    return np.array([[x, 0, -0.5], [0, y, -0.5], [0, 0, 1]])


def square_to_pixels(size: Size) -> Matrix:
    width, height = size
    return np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]])


def resized_pixels(source: Size, target: Size) -> Matrix:
    """From pixels of an image to those of itself resized from ``source`` to ``target``."""
    x, y = target[0] / source[0], target[1] / source[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def in_pixels(homography: Matrix, source_to_pixels: Matrix, target_to_pixels: Matrix) -> Matrix:
    """The homography from pixels to pixels, its last entry 1; given how the units of both its sides become pixels."""
    pixels = target_to_pixels @ homography @ np.linalg.inv(source_to_pixels)
    return np.asarray(pixels / pixels[2, 2], np.float64)
