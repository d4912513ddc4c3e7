import cv2
import numpy as np
import pytest
from drawn import picture

from ssld_pipeline.copies.candidates.perceptual_hash import (
    Looks,
    dihedral_homography,
    dihedral_looks,
    hash_distances,
    look,
    propose,
)
from ssld_pipeline.copies.features.sift import resize_grey

GREY = resize_grey(picture(0), 256)


def turned(image, form):
    image = image[:, ::-1] if form >= 4 else image
    return np.ascontiguousarray(np.rot90(image, form % 4))


@pytest.mark.parametrize("form", range(8))
def test_each_turned_and_mirrored_form_is_recognised(form):
    protected = look(turned(GREY, form))
    assert propose(dihedral_looks(GREY), protected, 10, 0.94) == [(0, form, False)]
    by_hash, by_thumbnail = (10, None), (-1, 0.94)
    for how in (by_hash, by_thumbnail):
        assert propose(dihedral_looks(255 - GREY), protected, *how) == [(0, form, True)]


def test_negatives_stand_behind_whatever_is_alike_as_it_stands():
    def proposed(hashes, correlations):
        """Of one pool image: with forms 0 and 1 at these distances from, and correlated so with, each protected one."""
        pool = Looks(np.array([0, 0], np.uint64), np.eye(2, 256, dtype=np.float32))
        bits = np.array([(1 << number) - 1 for number in hashes], np.uint64)
        thumbnails = np.zeros((len(hashes), 256), np.float32)
        thumbnails[:, :2] = correlations
        return propose(pool, Looks(bits, thumbnails), 10, None)

    assert proposed([63, 5, 60], [(-0.99, 0), (0.2, 0.1), (0, -0.7)]) == [(1, 0, False), (0, 0, True), (2, 1, True)]
    assert proposed([5], [(0.3, -0.9)]) == [(0, 0, False)], "the hash says what it is, not the thumbnail"


@pytest.mark.parametrize("seed", range(3))
def test_the_looks_of_the_forms_are_those_of_the_turned_picture(seed):
    square = cv2.resize(picture(seed), (32, 32), interpolation=cv2.INTER_AREA)[..., 1]
    forms = [look(turned(square, form)) for form in range(8)]
    found = dihedral_looks(square)
    np.testing.assert_array_equal(found.hashes, np.concatenate([form.hashes for form in forms]))
    np.testing.assert_array_equal(found.thumbnails, np.concatenate([form.thumbnails for form in forms]))


@pytest.mark.parametrize("form", range(8))
def test_the_homography_moves_pixels_as_turning_does(form):
    height, width = 6, 9
    image = np.arange(height * width).reshape(height, width)
    after = turned(image, form)
    homography = dihedral_homography(form, (width, height), (after.shape[1], after.shape[0]))
    for y in range(height):
        for x in range(width):
            u, v, _ = homography @ [(x + 0.5) / width, (y + 0.5) / width, 1] * max(after.shape)
            assert after[int(v), int(u)] == image[y, x]


def test_hash_distance_counts_bits():
    hashes = np.array([0, 1, 2**64 - 1, 0x0F0F], np.uint64)
    nothing = np.zeros((4, 256), np.float32)
    found = hash_distances(Looks(hashes, nothing), Looks(hashes, nothing))
    expected = [[bin(int(a) ^ int(b)).count("1") for b in hashes] for a in hashes]
    np.testing.assert_array_equal(found, expected)


def test_other_pictures_and_flat_ones_are_not_proposed():
    others = [look(resize_grey(picture(seed), 256)) for seed in range(1, 30)]
    protected = Looks(np.concatenate([o.hashes for o in others]), np.concatenate([o.thumbnails for o in others]))
    assert propose(dihedral_looks(GREY), protected, 10, 0.94) == []
    flat = look(np.full((50, 60), 9, np.uint8))
    assert np.all(flat.thumbnails == 0)
