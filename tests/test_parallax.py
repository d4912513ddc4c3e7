import cv2
import numpy as np
import pytest
from drawn import picture

from ssld_pipeline.copies.pixels.block_agreement import protected_frame
from ssld_pipeline.copies.pixels.edges import Overlaid
from ssld_pipeline.copies.pixels.parallax import unsteadiness

EVERYWHERE = np.ones((128, 128), np.bool_)
Y, X = np.mgrid[:128, :128].astype(np.float32)


def frame(seed):
    return protected_frame(cv2.cvtColor(picture(seed), cv2.COLOR_RGB2GRAY)).astype(np.float32)


def seen(pool, own, inside=EVERYWHERE):
    return unsteadiness(Overlaid(np.asarray(pool, np.float32), own), inside)


def warped(own, by_x, by_y):
    """What lies at (x, y) is seen at (x + by_x, y + by_y); the moves are small and smooth, or the same for a region."""
    return cv2.remap(own, X - by_x, Y - by_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_is_steady_whatever_was_done_to_it(seed):
    own = frame(seed)
    written = own.astype(np.uint8)
    for line in range(20, 120, 25):
        cv2.putText(written, "in everyone's mind", (2, line), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
    noise = np.random.default_rng(seed).normal(0, 20, own.shape)
    for copy in (own, 40 + 0.6 * own, cv2.GaussianBlur(own, (0, 0), 1.5), own + noise):
        assert seen(copy, own) < 0.3
    assert seen(written, own) < 1


@pytest.mark.parametrize("seed", range(4))
def test_a_bent_copy_is_steady(seed):
    """By a lens, a screen seen from the side, a page that curls: up to 6 pixels."""
    own, u, v = frame(seed), X / 64 - 1, Y / 64 - 1
    for by_x, by_y in ((5 * u, 5 * v), (4 * v * v, 0 * u), (3 * u * v, 3 - 3 * u * u), (0 * u + 5, 0 * u - 4)):
        assert seen(warped(own, by_x, by_y), own) < 1


@pytest.mark.parametrize("seed", range(4))
def test_what_stands_in_front_here_and_there_is_not(seed):
    """In squares that lie 0 or 6 pixels further to the side the best that a warp can do is to miss all of them by 3."""
    own = frame(seed)
    near = (X // 32 + Y // 32) % 2 == 1
    other = warped(own, np.where(near, np.float32(6), 0), 0 * Y)
    assert 1.7 < seen(other, own) < 4
    assert seen(np.where(near, 0, other), own) < 0.3, "what is behind is where it was"
    assert seen(other, own, X < 64) < seen(other, own)


def test_what_is_flat_or_hardly_seen_tells_nothing():
    own = frame(1)
    other = warped(own, np.where((X // 32 + Y // 32) % 2 == 1, np.float32(6), 0), 0 * Y)
    assert seen(other, own) > 1.7
    assert seen(other, own, Y < 24) == 0
    flat = np.full((128, 128), 90, np.float32)
    assert seen(own, flat) == seen(flat, own) == 0
