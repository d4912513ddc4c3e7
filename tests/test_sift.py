import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from drawn import picture

from ssld_pipeline.copies.features.mirror import canonical_descriptors, mirror_descriptors
from ssld_pipeline.copies.features.scale_space import find_blobs, gaussian_pyramid
from ssld_pipeline.copies.features.sift import detect_keypoints, resize_grey, spread_over_cells


@pytest.mark.parametrize("seed", range(3))
def test_mirroring_a_descriptor_equals_describing_the_mirror_image(seed):
    grey = resize_grey(picture(seed), 256)
    sift = cv2.SIFT.create(contrastThreshold=0.01)
    points, described = sift.detectAndCompute(grey, None)
    mirrored_points = [
        cv2.KeyPoint(grey.shape[1] - 1 - p.pt[0], p.pt[1], p.size, (180 - p.angle) % 360, p.response, p.octave)
        for p in points
    ]
    kept, oracle = sift.compute(np.ascontiguousarray(grey[:, ::-1]), mirrored_points)
    assert len(kept) == len(points)
    distances = np.linalg.norm(mirror_descriptors(described.astype(np.uint8)).astype(float) - oracle, axis=1)
    unrelated = np.linalg.norm(described - oracle, axis=1)
    assert np.median(distances) < 0.25 * np.median(unrelated)


def test_both_forms_of_a_descriptor_have_one_canonical_form():
    rng = np.random.default_rng(0)
    descriptors = rng.integers(0, 256, (500, 128), dtype=np.uint8)
    canonical, mirrored = canonical_descriptors(descriptors)
    other_canonical, other_mirrored = canonical_descriptors(mirror_descriptors(descriptors))
    bins = descriptors.reshape(-1, 16, 8).sum(axis=1, dtype=np.int64)
    decided = bins[:, 1:4].sum(axis=1) != bins[:, 5:8].sum(axis=1)
    np.testing.assert_array_equal(canonical[decided], other_canonical[decided])
    assert (mirrored != other_mirrored)[decided].all()
    np.testing.assert_array_equal(mirror_descriptors(mirror_descriptors(descriptors)), descriptors)


def test_text_does_not_use_up_the_budget():
    page = cv2.GaussianBlur(picture(5), (0, 0), 3)
    cv2.putText(page, "SAMPLE TEXT", (5, 25), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (255, 255, 255), 4)
    points = detect_keypoints(resize_grey(page, 256), 100)
    in_text = points.positions[:, 1] < 0.12
    assert len(points) == 100
    assert in_text.mean() < 0.4


def test_each_cell_gives_its_strongest_first():
    positions = np.array([[1, 1], [2, 2], [3, 3], [90, 90]], np.float32)
    responses = np.array([0.5, 0.9, 0.7, 0.1], np.float32)
    chosen = spread_over_cells(positions, responses, (100, 100), 3)
    np.testing.assert_array_equal(chosen, [1, 3, 2])


def test_positions_do_not_depend_on_the_resolution():
    large = detect_keypoints(resize_grey(picture(2, 640, 480), 512), 2000)
    small = detect_keypoints(resize_grey(picture(2, 640, 480), 256), 200)
    nearest = np.linalg.norm(small.positions[:, None] - large.positions[None], axis=2).min(axis=1)
    assert np.median(nearest) < 0.004  # a pixel of 256


def opencv_keypoints(grey):
    """(x, y, size, angle in degrees, response) and canonical descriptors of all of OpenCV's key points."""
    found, descriptors = cv2.SIFT.create(contrastThreshold=0.01, enable_precise_upscale=True).detectAndCompute(
        grey, None
    )
    places = np.array([(*p.pt, p.size, p.angle, p.response) for p in found])
    return places, canonical_descriptors(descriptors.astype(np.uint8))[0].astype(float)


@pytest.mark.parametrize("seed", range(3))
def test_keypoints_and_descriptors_are_those_of_opencv(seed):
    grey = resize_grey(picture(seed), 256)
    theirs, their_descriptors = opencv_keypoints(grey)
    ours = detect_keypoints(grey, 10_000)
    longer = max(grey.shape)
    places = np.column_stack((ours.positions * longer - 0.5, ours.sizes * longer, np.rad2deg(ours.angles)))
    apart = np.linalg.norm(places[:, None, :2] - theirs[None, :, :2], axis=2)
    other_size = np.abs(np.log2(places[:, None, 2] / theirs[None, :, 2]))
    other_angle = np.abs((places[:, None, 3] - theirs[None, :, 3] + 180) % 360 - 180)
    same = (apart < 0.03 * theirs[:, 2] + 0.5) & (other_size < 0.1) & (other_angle < 8)
    # Theirs begin an octave lower, at twice the size of the image, and smooth by another kernel before the second.
    assert same[:, (theirs[:, 2] > 4.5) & (theirs[:, 4] > 0.03)].any(axis=0).mean() > 0.8
    pairs = np.argwhere(same)
    left, right = ours.descriptors[pairs[:, 0]].astype(float), their_descriptors[pairs[:, 1]]
    cosine = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    assert len(pairs) > 50 and np.percentile(cosine, 5) > 0.95
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), 512, atol=20)


def test_the_budget_holds_and_part_of_it_is_coarse():
    fine, mixed = (detect_keypoints(resize_grey(picture(1), 256), 60, coarse_share=share) for share in (0, 0.5))
    assert len(fine) == len(mixed) == 60
    assert (mixed.sizes > 0.025).sum() > (fine.sizes > 0.025).sum()


def test_a_flat_image_has_no_keypoints_and_a_tiny_one_no_trouble():
    assert len(detect_keypoints(np.full((100, 80), 128, np.uint8), 150)) == 0
    for size in ((1, 1), (1, 300), (256, 2), (8, 8), (13, 12)):
        noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        assert len(detect_keypoints(noise, 150)) <= 150


def test_what_is_small_on_flat_ground_is_looked_at_closely():
    bird = cv2.resize(picture(3), (60, 48), interpolation=cv2.INTER_AREA)
    sky = np.full((300, 400, 3), 200, np.uint8)
    sky[120:168, 170:230] = bird
    found = detect_keypoints(resize_grey(sky, 400), 250)
    blobs = find_blobs(gaussian_pyramid(resize_grey(sky, 400)), 0.01)
    assert len(found) >= 2 * len(blobs.octaves)
    inside = (found.positions * 400 >= (160, 110)) & (found.positions * 400 <= (240, 178))
    assert inside.all(axis=1).mean() > 0.9


@pytest.mark.slow
def test_a_pixel_on_the_border_of_a_patch_is_written_nowhere_else(tmp_path):
    """It may be rounded beyond the last cell. Compiled code does not look where it writes, unless it is told to."""
    code = """
import numpy as np
from ssld_pipeline.copies.features.sift_descriptor import describe

layers = np.random.default_rng(0).uniform(0, 255, (6, 40, 40)).astype(np.float32)
for layer in (0, 0.5, 1, 1.5, 2, 2.5, 3):
    for eighth in range(8):
        describe(layers, np.array([[20, 20, layer]], np.float32), np.array([eighth * np.pi / 4], np.float32))
try:
    describe(layers, np.array([[20, 20, 7]], np.float32), np.zeros(1, np.float32))
except IndexError:
    print("is looked after")
"""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout == "is looked after\n", run.stderr
