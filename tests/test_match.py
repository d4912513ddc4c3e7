import faiss
import numpy as np
import pytest

from ssld_pipeline.kernels.match import (
    build_index,
    index_factory,
    match_one_to_one,
    search,
    set_num_probes,
    squared_distances,
    vote,
)


def descriptors(seed, count):
    """Uneven, as SIFT's are: most mass in few entries."""
    values = np.random.default_rng(seed).gamma(0.6, 40, (count, 128))
    return np.clip(values, 0, 255).astype(np.uint8)


def brute_force(queries, base, count):
    exact = ((queries[:, None].astype(np.int64) - base[None].astype(np.int64)) ** 2).sum(axis=2)
    order = np.argsort(exact, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(exact, order, axis=1), order


def test_a_small_index_is_exact():
    base, queries = descriptors(0, 700), descriptors(1, 20)
    index = build_index(base, 1)
    distances, ids = search(index, queries, 5)
    exact, order = brute_force(queries, base, 5)
    np.testing.assert_array_equal(distances, exact)
    np.testing.assert_array_equal(ids, order)


def test_a_large_index_finds_a_disturbed_descriptor():
    base = descriptors(0, 17_000)
    assert index_factory(len(base)).startswith("IVF")
    index = build_index(base, 1)
    set_num_probes(index, 4)
    rows = np.arange(0, len(base), 170)
    noise = np.random.default_rng(2).normal(0, 3, (len(rows), 128))
    disturbed = np.clip(base[rows] + noise, 0, 255).astype(np.uint8)
    _, ids = search(index, disturbed, 4)
    assert (ids == rows[:, None]).any(axis=1).mean() > 0.8


def test_the_index_does_not_depend_on_the_number_of_threads():
    base = descriptors(3, 17_000)

    one, two = (faiss.serialize_index(build_index(base, num_threads)) for num_threads in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("num_vectors", "expected"),
    [(0, "Flat"), (16_384, "Flat"), (120_000, "IVF512,PQ64x4fs"), (20_000_000, "IVF8192,PQ64x4fs")],
)
def test_the_kind_of_index_follows_the_number_of_vectors(num_vectors, expected):
    assert index_factory(num_vectors) == expected


def test_an_empty_index_answers_with_nothing():
    index = build_index(np.zeros((0, 128), np.uint8), 1)
    _, ids = search(index, descriptors(0, 3), 2)
    np.testing.assert_array_equal(ids, np.full((3, 2), -1))


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
