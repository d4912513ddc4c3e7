import numpy as np

from ssld_pipeline.copies.geometry.hough_votes import rank_by_agreement
from ssld_pipeline.copies.geometry.match import mutual_nearest, squared_distances


def descriptors(seed, count):
    """Uneven, as SIFT's are: most mass in few entries."""
    values = np.random.default_rng(seed).gamma(0.6, 40, (count, 128))
    return np.clip(values, 0, 255).astype(np.uint8)


def test_a_keypoint_counts_once_for_an_image():
    sources, columns = np.nonzero(np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]]))
    images = np.array([[7, 7, 7], [7, 3, -1], [3, 5, 5]])[sources, columns]
    here = np.tile([0.5, 0.5, -3.0, 1.0, 0.0], (len(images), 1))  # all at one place: each agrees with each
    found, counts = rank_by_agreement(here, here, sources, images, 1)
    np.testing.assert_array_equal(found, [3, 7, 5])  # of two with two, the smaller number first
    np.testing.assert_array_equal(counts, [2, 2, 1])
    assert len(rank_by_agreement(here, here, sources, images, 3)[0]) == 0


def test_one_to_one_matches_are_mutual_nearest_neighbours():
    left, right = descriptors(4, 30), descriptors(5, 40)
    right[10:20] = np.clip(left[5:15].astype(int) + np.random.default_rng(0).integers(-4, 5, (10, 128)), 0, 255)
    rows, columns = mutual_nearest(squared_distances(left, right), 300)
    exact = np.array([[np.linalg.norm(a.astype(float) - b) for b in right] for a in left])
    expected = {
        (i, j)
        for i in range(30)
        for j in range(40)
        if exact[i].argmin() == j and exact[:, j].argmin() == i and exact[i, j] <= 300
    }
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == expected
    assert {(i, i + 5) for i in range(5, 15)} <= expected
    np.testing.assert_array_equal(squared_distances(left, right), np.rint(exact**2))
