import cv2
import numpy as np
import pytest
from drawn import picture

from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.pixels.autocorrelation import self_similar_shifts
from ssld_pipeline.copies.pixels.block_agreement import protected_frame

SIDE = 128


def checks(angle, period, noise=0.0):
    y, x = np.mgrid[:SIDE, :SIDE]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    lit = (np.floor(2 * u / period) + np.floor(2 * v / period)) % 2
    return np.clip(80 + 90 * lit + np.random.default_rng(0).normal(0, noise, lit.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("angle", "period", "noise"), [(0.0, 32, 0), (0.3, 40, 0), (1.0, 28, 20)])
def test_checks_are_like_themselves_shifted_by_their_lattice(angle, period, noise):
    shifts = SIDE * self_similar_shifts(checks(angle, period, noise), 0.06, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    steps = 2 * (shifts @ turn.T) / period  # a lattice point is a whole number of squares away, in both directions
    assert len(shifts) == 2 and np.abs(steps - np.rint(steps)).max() < 0.12
    assert (np.rint(steps).sum(axis=1) % 2 == 0).all(), "and of the same colour"


def test_the_shifts_are_the_highest_peaks_of_a_direct_count():
    frame = protected_frame(resize_grey(picture(4, 320, 240), 256))
    fine = frame - cv2.GaussianBlur(frame.astype(np.float32), (0, 0), 0.06 * SIDE)

    def correlation(x, y):
        here, there = fine[: SIDE - y, max(0, -x) : SIDE - max(0, x)], fine[y:, max(0, x) : SIDE + min(0, x)]
        return (here * there).sum() / np.sqrt((here**2).sum() * (there**2).sum())

    reach = range(-80, 81)
    counted = {(x, y): correlation(x, y) for y in range(80) for x in reach}
    counted |= {(-x, -y): value for (x, y), value in counted.items()}

    def is_peak(x, y):
        near = [(x + i, y + j) for i in range(-2, 3) for j in range(-2, 3)]
        return all(counted.get(other, -1) <= counted[x, y] + 1e-6 for other in near)

    far = [(x, y) for x, y in counted if np.hypot(x, y) >= 0.06 * SIDE and (y > 0 or (y == 0 and x > 0))]
    enough = [(x, y) for x, y in far if (SIDE - abs(x)) * (SIDE - abs(y)) >= 0.4 * SIDE**2]
    best = sorted((shift for shift in enough if is_peak(*shift)), key=lambda shift: -counted[shift])[:4]
    assert np.allclose(SIDE * self_similar_shifts(frame, 0.06, 4), best)


def test_no_shift_is_shorter_than_asked_and_flat_ground_has_none():
    frame = protected_frame(resize_grey(picture(5, 320, 240), 256))
    assert (np.hypot(*self_similar_shifts(frame, 0.2, 9).T) >= 0.2).all()
    assert len(self_similar_shifts(np.full((SIDE, SIDE), 9, np.uint8), 0.06, 3)) == 0
