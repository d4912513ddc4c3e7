"""The parts of a grid, a collage or a page are found where they were put; one picture has none."""

import cv2
import numpy as np
import pytest
from drawn import picture

from ssld_pipeline.copies.candidates.panels import find_panels


def grey_picture(seed, width=320, height=240):
    return cv2.cvtColor(picture(seed, width, height), cv2.COLOR_RGB2GRAY)


def grid(seed, gap, ground):
    """(grey, boxes): 2 to 4 pictures beside and below each other, ``gap`` pixels apart, on a plain ground."""
    rng = np.random.default_rng(seed)
    num_rows, num_columns = rng.integers(2, 5, 2)
    width, height = rng.integers(50, 90, 2)
    image = np.full((num_rows * (height + gap) + gap, num_columns * (width + gap) + gap), ground, np.uint8)
    boxes = []
    for row, column in np.ndindex(num_rows, num_columns):
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        image[top : top + height, left : left + width] = grey_picture(rng.integers(1e6), width, height)
        boxes.append((top, top + height, left, left + width))
    return image, boxes


def jpeg(grey, quality):
    return cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def is_found(box, panels):
    """But for a plain margin of its own: at least .85 of both."""
    return max((common(box, panel) for panel in panels), default=0) >= 0.85


def common(first, second):
    (top, bottom, left, right), areas = zip(first, second, strict=True), [area(*first), area(*second)]
    return area(max(top), min(bottom), max(left), min(right)) / max(areas)


def area(top, bottom, left, right):
    return max(bottom - top, 0) * max(right - left, 0)


@pytest.mark.parametrize("ground", [255, 30])
@pytest.mark.parametrize("seed", range(6))
def test_pictures_with_a_gap_between_them_are_found(seed, ground):
    image, boxes = grid(seed, gap=6, ground=ground)
    for altered in (image, jpeg(image, 60), image.T, image[:, ::-1]):
        panels = find_panels(np.ascontiguousarray(altered))
        assert len(panels) >= len(boxes)
    assert all(is_found(box, find_panels(image)) for box in boxes)
    assert all(is_found(box, find_panels(jpeg(image, 60))) for box in boxes)


def test_pictures_that_touch_are_found():
    left, right = grey_picture(1, 150, 200) // 2, 128 + grey_picture(2, 150, 200) // 2
    panels = find_panels(np.hstack((left, right)))
    assert is_found((0, 200, 0, 150), panels) and is_found((0, 200, 150, 300), panels)


def test_the_picture_of_a_page_is_found_beside_its_text():
    page = np.full((300, 400), 250, np.uint8)
    page[60:240, 20:200] = grey_picture(3, 180, 180)
    for y in range(70, 240, 14):
        cv2.putText(page, "words and words", (230, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 20, 1)
    assert is_found((60, 240, 20, 200), find_panels(page))


def test_pictures_within_a_picture_of_a_grid_are_found_and_it_is_too():
    inner, boxes = grid(4, gap=6, ground=255)
    height, width = inner.shape
    image = np.full((height + 20, 2 * width + 30), 255, np.uint8)
    image[10:-10, 10 : 10 + width] = inner
    image[10:-10, 20 + width : -10] = grey_picture(5, width, height)
    panels = find_panels(image)
    assert all(is_found((10 + t, 10 + b, 10 + left, 10 + right), panels) for t, b, left, right in boxes)
    assert is_found((10, 10 + height, 20 + width, 20 + 2 * width), panels)


@pytest.mark.parametrize("seed", range(5))
def test_one_picture_has_none(seed):
    assert find_panels(grey_picture(seed)) == []
    assert find_panels(cv2.copyMakeBorder(grey_picture(seed), 9, 9, 9, 9, cv2.BORDER_CONSTANT, value=255)) == []


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1), (30, 30)])
def test_flat_and_tiny_images_have_none(shape):
    assert find_panels(np.full(shape, 7, np.uint8)) == []
    assert find_panels(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)) == []


def test_panels_are_few_and_lie_within_the_image():
    rng = np.random.default_rng(0)
    noise = np.repeat(np.repeat(rng.integers(0, 256, (40, 40), dtype=np.uint8), 10, 0), 10, 1)
    squares = np.where(np.add.outer(np.arange(400) // 25 % 2, np.arange(400) // 25 % 2) == 0, 255, noise)
    panels = find_panels(squares.astype(np.uint8))
    assert len(panels) == 64, "of 75"
    for top, bottom, left, right in panels:
        assert 0 <= top < bottom <= 400 and 0 <= left < right <= 400 and min(bottom - top, right - left) >= 24
