import numpy as np

from ssld_pipeline.kernels.match import match_one_to_one, squared_distances, vote


def descriptors(seed, count):
    """Uneven, as SIFT's are: most mass in few entries."""
    values = np.random.default_rng(seed).gamma(0.6, 40, (count, 128))
    return np.clip(values, 0, 255).astype(np.uint8)


def test_a_keypoint_votes_once_for_an_image():
    hits = np.array([[7, 7, 7], [7, 3, -1], [3, 5, 5], [-1, -1, -1]])
    images, votes = vote(hits, num_candidates=2, min_votes=1)
    np.testing.assert_array_equal(images, [3, 7])  # two votes each, the smaller number first
    np.testing.assert_array_equal(votes, [2, 2])
    assert len(vote(hits, num_candidates=5, min_votes=3)[0]) == 0


def test_one_to_one_matches_are_mutual_nearest_neighbours():
    left, right = descriptors(4, 30), descriptors(5, 40)
    right[10:20] = np.clip(left[5:15].astype(int) + np.random.default_rng(0).integers(-4, 5, (10, 128)), 0, 255)
    rows, columns = match_one_to_one(left, right, 300)
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
