"""Candidates and groups: what the search proposes, and who joins whom."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from drawn import encoded, picture
from hypothesis import given
from hypothesis import strategies as st

from ssld_pipeline.copies.candidates.perceptual_hash import thumbnail
from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.within_pool import near_pairs
from ssld_pipeline.copies.within_pool.groups import gather, missing_links, without
from ssld_pipeline.kernels.images import decode

NUM_PICTURES = 150


def small(pixels: npt.NDArray[np.uint8], quality: int = 90) -> npt.NDArray[np.uint8]:
    return thumbnail(resize_grey(decode(encoded(pixels, quality)).pixels, 256))


@pytest.fixture(scope="module")
def thumbnails() -> npt.NDArray[np.uint8]:
    """Row i + 150 is picture i at half its size and quality 60; two more rows are flat."""
    pictures = [picture(seed) for seed in range(NUM_PICTURES)]
    halves = [cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for p in pictures]
    rows = [*(small(p) for p in pictures), *(small(p, 60) for p in halves)]
    return np.stack([*rows, np.full(1024, 7, np.uint8), np.full(1024, 7, np.uint8)])


def brute_force(thumbnails: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    fine = [t.reshape(32, 32).astype(np.float64) for t in thumbnails]
    coarse = [cv2.resize(t, (16, 16), interpolation=cv2.INTER_AREA) for t in fine]
    last = len(fine) - 1
    pairs = [(i, j) for i in range(last) for j in range(i + 1, last + 1)]
    alike_at = [(edges_of(coarse), 0.85), (edges_of(fine), 0.6)]
    return [(i, j) for i, j in pairs if all(edges[i] @ edges[j] > limit for edges, limit in alike_at)]


def edges_of(images: list[npt.NDArray[np.float64]]) -> list[npt.NDArray[np.float64]]:
    edges = [cv2.Laplacian(image, cv2.CV_64F)[1:-1, 1:-1].ravel() for image in images]
    return [e / max(np.linalg.norm(e), 1) for e in edges]


@pytest.mark.parametrize("most_exact", [16_384, 64])
def test_repeats_are_proposed_and_other_pictures_are_not(
    thumbnails: npt.NDArray[np.uint8], most_exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_pairs, "_MAX_EXACT", most_exact)
    monkeypatch.setattr(near_pairs, "_VECTORS_PER_LIST", 40)
    found = near_pairs.near_pairs(thumbnails, 1)
    assert [tuple(pair) for pair in found] == brute_force(thumbnails)
    assert {(i, i + NUM_PICTURES) for i in range(NUM_PICTURES)} == {tuple(pair) for pair in found}
    np.testing.assert_array_equal(near_pairs.near_pairs(thumbnails, 3), found)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_are_no_special_case(thumbnails: npt.NDArray[np.uint8], count: int) -> None:
    rows = [0, NUM_PICTURES][:count]
    assert len(near_pairs.near_pairs(thumbnails[rows], 1)) == (count == 2)


EDGES = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda e: e[0] < e[1]), unique=True)


@given(EDGES, st.randoms(use_true_random=False))
def test_an_image_joins_the_best_kept_one_it_is_confirmed_with(edges: list[tuple[int, int]], random) -> None:
    centres: list[int] = []
    for image in range(12):
        centres.append(min((b for b, w in edges if w == image and centres[b] == b), default=image))
    shuffled = random.sample(edges, len(edges))
    pairs = np.array(shuffled, np.int64).reshape(-1, 2)
    assert gather(12, pairs).tolist() == centres
    # What is still missing would let a group grow, and is nobody's own pair with its centre.
    for a, b in missing_links(gather(12, pairs), pairs).tolist():
        assert a < b and centres[a] != centres[b]
        assert any(a in (centres[x], x) and b in (centres[y], y) for e in edges for x, y in (e, e[::-1]))


def test_a_chain_is_no_group() -> None:
    assert gather(4, np.array([[0, 1], [1, 2], [2, 3]])).tolist() == [0, 0, 2, 2]


def test_without_leaves_what_is_new() -> None:
    pairs, known = np.array([[0, 1], [0, 9], [3, 4]]), np.array([[3, 4], [1, 9]])
    assert without(pairs, known, 10).tolist() == [[0, 1], [0, 9]]
