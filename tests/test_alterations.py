"""Altered copies: pictures still, the same for the same seed, and no more altered than is said."""

import cv2
import numpy as np
import pytest
from drawn import picture

from ssld_pipeline.copies.planted.alterations import KINDS, plant
from ssld_pipeline.demo import copies

REFRAMED = ("crop", "hard_crop", "mirror", "rotate", "rotate90", "pad", "combination")
REFRAMED += ("perspective", "meme", "screenshot", "collage", "screen_photo")


@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_any_size_are_pictures_that_differ(kind):
    for width, height in ((150, 112), (200, 260), (48, 48)):
        image = picture(0, width, height)
        before = image.copy()
        copy = plant(image, kind, np.random.default_rng(1))
        assert copy.dtype == np.uint8 and copy.ndim == 3 and copy.shape[2] == 3 and min(copy.shape[:2]) >= 8
        assert copy.flags.c_contiguous and not np.shares_memory(copy, image) and np.array_equal(image, before)
        assert np.array_equal(copy, image) == (kind == "exact")
        assert np.array_equal(copy, plant(image, kind, np.random.default_rng(1)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in REFRAMED])
def test_copies_that_keep_the_frame_still_show_the_picture(kind):
    """Correlation with the original, both on a 32 x 32 grid: alterations are moderate."""
    for seed in range(5):
        image = picture(seed)
        small = [shrunk(i).ravel() for i in (image, plant(image, kind, np.random.default_rng(seed)))]
        assert np.corrcoef(*small)[0, 1] > 0.6


@pytest.mark.parametrize("kind", ["screenshot", "collage"])
def test_the_picture_lies_untouched_within_the_larger_one(kind):
    for seed in range(5):
        image = picture(seed, 160, 120)
        page = plant(image, kind, np.random.default_rng(seed))
        assert page.size > image.size
        left, top = cv2.minMaxLoc(cv2.matchTemplate(page, image, cv2.TM_SQDIFF))[2]
        assert np.array_equal(page[top : top + 120, left : left + 160], image)


def test_the_seed_changes_what_the_kind_leaves_open():
    image = picture(3)
    for kind in KINDS:
        if kind not in ("exact", "mirror", "grey"):
            assert len({plant(image, kind, np.random.default_rng(seed)).tobytes() for seed in range(6)}) > 1, kind


def test_the_demo_plants_a_part_of_them():
    assert set(copies.KINDS) < set(KINDS)
    with pytest.raises(KeyError):
        plant(picture(0), "upside down", np.random.default_rng(0))


def shrunk(image):
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
