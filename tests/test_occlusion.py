"""What is drawn over a picture is told from what the picture shows, and hides nothing but itself."""

import cv2
import numpy as np
import pytest
from drawn import encoded, picture
from test_dedupe import SIZE, build, catalog_rows, opened

from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.pixels.block_agreement import compare_pixels, protected_frame
from ssld_pipeline.copies.pixels.edges import Overlaid
from ssld_pipeline.copies.pixels.occlusion import visible
from ssld_pipeline.copies.pixels.tone_curve import explained_share

SIDE = 128
EVERYWHERE = np.ones((SIDE, SIDE), np.bool_)
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])


def written(pixels, words="Bold words all over"):
    """Under six lines of bold text with an outline."""
    page, (height, width) = pixels.copy(), pixels.shape[:2]
    for line in range(6):
        place = (4, round((line + 0.8) * height / 6))
        for colour, stroke in ((0, 7), (255, 3)):
            cv2.putText(page, words, place, cv2.FONT_HERSHEY_SIMPLEX, width / 340, (colour,) * 3, stroke, cv2.LINE_AA)
    return page


def frame(pixels):
    return protected_frame(resize_grey(pixels, 256)).astype(np.float32)


def calm(seed):
    """Few shapes on a quiet ground, as a photograph of a thing: most of its edges are written over."""
    return cv2.GaussianBlur(picture(seed, *SIZE), (0, 0), 4)


@pytest.mark.parametrize("seed", range(4))
def test_strokes_are_found_and_little_else(seed):
    own, copy = frame(calm(seed)), frame(written(calm(seed)))
    changed = np.abs(own - copy) > 25
    found = ~visible(Overlaid(copy, own), EVERYWHERE, None)
    assert found[changed].mean() > 0.65
    assert found[~cv2.dilate(changed.astype(np.uint8), np.ones((9, 9))).astype(bool)].mean() < 0.05


def test_what_is_lost_in_black_or_white_is_hidden():
    own = frame(picture(1, *SIZE))
    barred = own.copy()
    barred[40:70], barred[100:] = 0, 255
    found = ~visible(Overlaid(barred, own), EVERYWHERE, None)
    assert found[42:68].mean() > 0.9 and found[102:].mean() > 0.9 and found[:38].mean() < 0.05


def test_little_that_is_drawn_and_a_picture_as_it_is_hide_nothing():
    own = frame(picture(2, *SIZE))
    line = own.copy()
    line[60:62] = 255 - line[60:62]
    for pool in (own, line, 0.6 * own + 30):
        assert visible(Overlaid(pool, own), EVERYWHERE, None).all()
    visible(Overlaid(frame(written(picture(2, *SIZE))), own), ~EVERYWHERE, None)  # nothing to compare is no error


def test_what_is_shared_is_not_its_own():
    own, shared = frame(calm(0)), ~EVERYWHERE
    shared[:30] = True
    assert np.array_equal(visible(Overlaid(own, own), EVERYWHERE, shared), ~shared)


def test_where_hardly_anything_is_left_nothing_counts_as_drawn():
    """A strip under text: what is left of it between the letters is no picture."""
    own, copy = frame(calm(0)), frame(written(calm(0)))
    strip = ~EVERYWHERE
    strip[10:46] = True
    assert not visible(Overlaid(copy, own), EVERYWHERE, None)[strip].all()
    assert np.array_equal(visible(Overlaid(copy, own), strip, None), strip)


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_agrees_with_what_is_left_of_it_under_text_and_another_under_the_same_text_does_not(seed):
    own, copy = frame(calm(seed)), written(calm(seed))
    other, marked = written(calm(seed + 50)), frame(copy)

    def score(pool, protected):
        return compare_pixels(resize_grey(pool, 256), protected.astype(np.uint8), IDENTITY, SIZE)[0].score

    def explained(pool, protected):
        pictures = Overlaid(pool, protected)
        return explained_share(pictures, visible(pictures, EVERYWHERE, None))

    assert score(copy, own) > 0.6 and explained(frame(copy), own) > 0.7
    assert score(other, own) < 0.3 and explained(frame(other), own) < 0.4
    assert score(other, marked) < 0.45


def test_copies_under_bold_text_are_found_and_no_other_picture_under_it(tmp_path):
    index, _, _ = build(tmp_path / "index", {f"protected/{i}": encoded(picture(80 + i, *SIZE)) for i in range(8)})
    copies = {f"pool/{i}": encoded(written(picture(80 + i, *SIZE), f"{i} words all over")) for i in range(8)}
    others = {f"pool/other {i}": encoded(written(picture(95 + i, *SIZE), f"{i} words all over")) for i in range(8)}
    rows = opened(index)(catalog_rows(tmp_path / "pool", copies | others)).rows.to_pylist()
    removed = {(row["image_id"][5:], row["protected_id"][10:]) for row in rows if row["is_duplicate"]}
    assert all(image == protected for image, protected in removed) and len(removed) >= 7
