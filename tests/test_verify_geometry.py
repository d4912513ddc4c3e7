import numpy as np
import pytest

from ssld_pipeline.copies.features.sift import KeyPoints
from ssld_pipeline.copies.geometry.homography import in_pixels, longer_to_pixels
from ssld_pipeline.copies.geometry.verify_geometry import (
    _is_sane,
    estimate_transform,
    fit_affine,
    match_guided,
    overlap,
)


def keypoints(positions, sizes, angles, mirrored):
    return KeyPoints(
        np.asarray(positions, np.float32),
        np.asarray(sizes, np.float32),
        np.asarray(angles, np.float32),
        np.asarray(mirrored, np.bool_),
        np.zeros((len(sizes), 128), np.uint8),
    )


def matched(scale, degrees, flipped, num_right, num_wrong, seed=0):
    """Matches under a known similarity, and wrong ones after them; also the affine."""
    rng = np.random.default_rng(seed)
    count, turn = num_right + num_wrong, np.deg2rad(degrees)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    mirror = np.diag([-1.0, 1.0]) if flipped else np.eye(2)
    linear, shift = rotation @ mirror, np.array([0.4, 0.3])
    p, angles, sizes = rng.uniform(0, 1, (count, 2)), rng.uniform(-3, 3, count), rng.uniform(0.01, 0.1, count)
    q = p @ linear.T + shift + rng.normal(0, 0.001, (count, 2))
    direction = np.column_stack((np.cos(angles), np.sin(angles))) @ linear.T
    q_angles = np.arctan2(direction[:, 1], direction[:, 0])
    q[num_right:], q_angles[num_right:] = rng.uniform(0, 1, (num_wrong, 2)), rng.uniform(-3, 3, num_wrong)
    flags = rng.uniform(size=count) < 0.5
    pool = keypoints(p, sizes, angles, flags)
    protected = keypoints(q, sizes * scale, q_angles, flags ^ flipped)
    return pool, protected, np.column_stack((linear, shift))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("scale", "degrees"), [(1.0, 0), (0.4, 30), (2.5, -90), (1.3, 170)])
def test_a_known_similarity_is_found_among_wrong_matches(scale, degrees, flipped):
    pool, protected, affine = matched(scale, degrees, flipped, num_right=25, num_wrong=60)
    found = estimate_transform(pool.places, protected.places)
    assert set(range(25)) <= set(found.inliers.tolist())
    assert 20 <= found.num_inliers <= 30
    np.testing.assert_allclose(found.affine, affine, atol=0.01)
    assert (np.linalg.det(found.homography) < 0) == flipped


def test_an_affine_distortion_is_refined():
    pool, protected, _ = matched(1.0, 10, False, num_right=40, num_wrong=20)
    squeeze = np.array([[1.0, 0.1], [0.0, 0.85]])
    squeezed = keypoints(protected.positions @ squeeze.T, protected.sizes, protected.angles, protected.mirrored)
    found = estimate_transform(pool.places, squeezed.places)
    oracle = np.linalg.lstsq(np.column_stack((pool.positions[:40], np.ones(40))), squeezed.positions[:40], rcond=None)
    np.testing.assert_allclose(found.affine, oracle[0].T, atol=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_an_affine_is_that_of_least_squares(seed):
    rng = np.random.default_rng(seed)
    left, right = rng.normal(0, 1, (2, 3 + 4 * seed, 5)) @ np.diag([1, 0.01, 1, 1, 1]) + rng.normal(0, 1, 5)
    oracle = np.linalg.lstsq(np.column_stack((left[:, :2], np.ones(len(left)))), right[:, :2], rcond=None)[0].T
    np.testing.assert_allclose(fit_affine(left, right), oracle, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_sane_is_said_by_the_singular_values(seed):
    rng = np.random.default_rng(seed)
    affine = (np.diag([rng.choice([-1, 1]), 1]) @ np.eye(2, 3) + rng.normal(0, 0.3, (2, 3))) * rng.choice([0.1, 1, 11])
    largest, smallest = np.linalg.svd(affine[:, :2], compute_uv=False)
    sane = largest / smallest <= 2.5 and smallest >= 1 / 16 and largest <= 16
    flipped = np.linalg.det(affine[:, :2]) < 0
    assert _is_sane(affine, flipped) == sane and not _is_sane(affine, not flipped)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_what_guided_matching_leaves_is_told(scale):
    """Of places that are .001 off in both directions the median error is .00118 (Rayleigh), and they are alike."""
    pool, protected, _ = matched(scale, 20, False, num_right=200, num_wrong=0)
    distances = np.full((200, 200), 500.0**2, np.float32)
    np.fill_diagonal(distances, np.linspace(100, 180, 200) ** 2)
    found = match_guided(estimate_transform(pool.places, protected.places), pool, protected, distances, 300)
    np.testing.assert_array_equal(found.left, found.right)
    assert len(found.left) == 200
    assert found.error == pytest.approx(0.00118 / max(1, scale), rel=0.15)
    assert found.distance == pytest.approx(140, abs=1)


@pytest.mark.parametrize("ratio", [1.5, 4, 10])
def test_a_picture_seen_from_the_side_is_brought_back_whole(ratio):
    """From the part that one similarity brings together; ``ratio``: of its near edge to its far one."""
    rng = np.random.default_rng(0)
    p, angles, sizes = rng.uniform(0, 1, (150, 2)), rng.uniform(-3, 3, 150), rng.uniform(0.02, 0.1, 150)
    depth = 1 + (ratio - 1) * p[:, 0]
    homography = np.array([[ratio, 0, 0], [0, 1, 0], [ratio - 1, 0, 1]])
    q = np.column_stack((ratio * p[:, 0], p[:, 1])) / depth[:, None]
    derivative = (homography[:2, :2] - q[:, :, None] * homography[2, :2]) / depth[:, None, None]
    axes = np.einsum("nij,nj->ni", derivative, np.column_stack((np.cos(angles), np.sin(angles))))
    flags = np.zeros(150, np.bool_)
    pool = keypoints(p, sizes, angles, flags)
    protected = keypoints(q, sizes * np.linalg.norm(axes, axis=1), np.arctan2(axes[:, 1], axes[:, 0]), flags)
    start = estimate_transform(pool.places, protected.places)
    distances = np.where(np.eye(150, dtype=np.bool_), 0, 1e9).astype(np.float32)
    guided = match_guided(start, pool, protected, distances, 300)
    assert start.num_inliers < guided.num_inliers
    assert len(guided.left) == 150
    np.testing.assert_allclose(guided.homography, homography, atol=1e-3)


def test_wrong_matches_alone_have_few_inliers():
    pool, protected, _ = matched(1.0, 0, False, num_right=0, num_wrong=100)
    found = estimate_transform(pool.places, protected.places)
    assert found is None or found.num_inliers < 8


def test_repeated_positions_count_once():
    pool, protected, _ = matched(1.0, 0, False, num_right=5, num_wrong=0)
    repeated = np.repeat(np.arange(5), 10)
    found = estimate_transform(pool.places[repeated], protected.places[repeated])
    assert found.num_inliers == 5
    assert len(found.inliers) == 50


def test_points_on_a_line_and_too_few_points_fix_no_transform():
    line = np.column_stack((np.linspace(0, 1, 20), np.linspace(0, 1, 20))).astype(np.float32)
    assert fit_affine(line, line) is None
    points = keypoints(line, np.full(20, 0.05), np.zeros(20), np.zeros(20))
    assert estimate_transform(points.places, points.places) is None
    assert estimate_transform(points.places[:3], points.places[:3]) is None


def test_a_homography_in_pixels_maps_corners_onto_corners():
    pixels = in_pixels(np.eye(3), longer_to_pixels((400, 300)), longer_to_pixels((200, 150)))
    mapped = pixels @ np.array([399.5, -0.5, 1])  # the upper right corner of the upper right pixel
    np.testing.assert_allclose(mapped[:2] / mapped[2], [199.5, -0.5])


def test_overlap_of_a_crop_a_frame_and_a_corner():
    crop = np.array([[0.5, 0, 0.25], [0, 0.5, 0.1], [0, 0, 1]])
    assert overlap(crop, (400, 300), (400, 300)) == pytest.approx((1, 0.25), abs=1e-5)
    assert overlap(np.linalg.inv(crop), (400, 300), (400, 300)) == pytest.approx((0.25, 1), abs=1e-5)
    mirrored = crop @ np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    assert overlap(mirrored, (400, 300), (400, 300)) == pytest.approx((1, 0.25), abs=1e-5)
    corner = np.array([[1, 0, 0.5], [0, 1, 0.375], [0, 0, 1]])
    assert overlap(corner, (400, 300), (400, 300)) == pytest.approx((0.25, 0.25), abs=1e-5)
    far = np.array([[1, 0, 3], [0, 1, 0], [0, 0, 1.0]])
    assert overlap(far, (400, 300), (400, 300)) == (0, 0)
    assert overlap(np.diag([-1.0, 1, -1]), (400, 300), (400, 300)) == (1, 1), "behind the camera"


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_lies_on_all_of_its_original_however_little_it_is_off(seed):
    """Corners and sides lie on each other but for rounding, or cross in places that rounding decides."""
    rng = np.random.default_rng(seed)
    sizes = (341, 256), (256, 341), (300, 300)
    for off in (0, 1e-12, 1e-7, 1e-5, 1e-3):
        for size in sizes:
            nearly = np.eye(3) + off * rng.normal(0, 1, (3, 3)) * [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
            assert overlap(nearly, size, size) == pytest.approx((1, 1), abs=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_overlap_is_the_share_of_points(seed):
    rng = np.random.default_rng(seed)
    turn, scale = rng.uniform(0, 6), rng.uniform(0.5, 1.5)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    homography = np.eye(3)
    homography[:2, :2] = rotation @ np.diag([rng.choice([-1, 1]), 1])
    homography[:2, 2] = rng.uniform(0.2, 0.8, 2) - homography[:2, :2] @ [0.5, 0.4]
    points = np.column_stack((rng.uniform(0, 1, 100_000), rng.uniform(0, 0.8, 100_000), np.ones(100_000)))

    def share_inside(moved):
        return ((moved[:, :2] >= 0) & (moved[:, :2] <= (1, 0.8))).all(axis=1).mean()

    expected = share_inside(points @ homography.T), share_inside(points @ np.linalg.inv(homography).T)
    assert overlap(homography, (500, 400), (500, 400)) == pytest.approx(expected, abs=0.01)
