import cv2
import numpy as np
import pytest
from drawn import picture, text_page

from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.pixels.block_agreement import agree, compare_pixels, protected_frame, warp_to_frame
from ssld_pipeline.copies.pixels.edges import Overlaid

SIDE = 128
EVERYWHERE = np.ones((SIDE, SIDE), np.bool_)


def grey(seed, width=320, height=240):
    return resize_grey(picture(seed, width, height), 256)


def frame(seed):
    return protected_frame(grey(seed)).astype(np.float32)


def counted(left, right):
    """The score again, in plain loops over pixels and parts."""
    pool, protected = (cv2.GaussianBlur(side, (0, 0), 1.0) for side in (left, right))
    gx, gy = (np.stack([cv2.Scharr(s, cv2.CV_32F, *a) / 32 for s in (pool, protected)]) for a in ((1, 0), (0, 1)))
    length = np.hypot(gx, gy)
    strong = np.quantile(length[1], 0.9)
    weak = max(0.6, 0.1 * strong)
    sums = np.zeros((4, 16, 16))
    for y in range(SIDE):
        for x in range(SIDE):
            if length[1, y, x] <= weak:
                continue
            weight = min(length[1, y, x], max(strong, 1.0))
            hits = []
            for dy, dx in ((0, 0), (9, 0), (-9, 0), (0, 9), (0, -9)):
                v, u = (y + dy) % SIDE, (x + dx) % SIDE
                along = gx[1, y, x] * gx[0, v, u] + gy[1, y, x] * gy[0, v, u]
                hits.append(length[0, v, u] > 0.1 and along > 0.85 * length[1, y, x] * length[0, v, u])
            sums[:, y // 8, x // 8] += np.array([1, hits[0], np.mean(hits[1:3]), np.mean(hits[3:])]) * weight
    sums *= sums[0] >= 6 * weak
    regions = sums.reshape(4, 4, 4, 4, 4).sum(axis=(2, 4))
    regions[2] = regions[2:].max(axis=0)
    known = (sums[0] > 0).reshape(4, 4, 4, 4).sum(axis=(1, 3)) >= 3
    shares = (regions[1] - regions[2]) / (regions[0] - regions[2])
    middle = np.mean(sorted(shares[1:3, 1:3][known[1:3, 1:3]])[-3:])
    edges = (regions[1] - regions[2]).sum() / (regions[0] - regions[2]).sum()
    pairs = [
        (pool[y : y + 16, x : x + 16].ravel(), protected[y : y + 16, x : x + 16].ravel())
        for y in range(0, SIDE, 16)
        for x in range(0, SIDE, 16)
    ]
    blocks = np.mean([np.corrcoef(a, b)[0, 1] > 0.8 for a, b in pairs if max(a.std(), b.std()) >= 3])
    tones = np.corrcoef([s.reshape(16, 8, 16, 8).mean(axis=(1, 3)).ravel() for s in (pool, protected)])[0, 1]
    together = (edges + blocks + max(tones, 0)) / 3
    return min(together, 1.4 * middle) - 0.6 * (shares[known] < 0.15).mean(), int((sums[0] > 0).sum())


@pytest.mark.parametrize(("seed", "noise"), [(0, 30), (1, 60), (2, 12)])
def test_the_score_equals_a_count_part_by_part(seed, noise):
    right = frame(seed)
    left = right + np.random.default_rng(0).normal(0, noise, right.shape).astype(np.float32)
    score, num_blocks = counted(left, right)
    found = agree(Overlaid(left, right), EVERYWHERE)
    assert found.num_blocks == num_blocks
    assert found.score == pytest.approx(score, abs=1e-3)
    assert 0.1 < found.score < 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_what_the_count_finds_no_agreement_in_scores_0_and_nothing_else_does(seed):
    """Between two pictures there are all shades of agreement; edges alone must not end what blocks and tones save."""
    scores = []
    for share in np.linspace(0, 0.6, 13):
        left = (share * frame(seed) + (1 - share) * frame(seed + 1)).astype(np.float32)
        score, _ = counted(left, frame(seed))
        scores.append(score)
        assert agree(Overlaid(left, frame(seed)), EVERYWHERE).score == pytest.approx(max(score, 0), abs=2e-3)
    assert min(scores) < 0 < max(scores)


def test_brightness_and_contrast_do_not_matter_and_another_picture_does_not_agree():
    assert agree(Overlaid(0.5 * frame(1) + 60, frame(1)), EVERYWHERE).score == pytest.approx(1, abs=0.01)
    assert agree(Overlaid(frame(2), frame(1)), EVERYWHERE).score < 0.3


def test_what_has_no_edges_says_nothing():
    flat = np.full((SIDE, SIDE), 128, np.float32)
    assert agree(Overlaid(flat, flat + 40), EVERYWHERE) == (0, 0, 1)
    half = flat.copy()
    half[:, :64] = frame(3)[:, :64]
    assert agree(Overlaid(half, half), EVERYWHERE).num_blocks <= 150


def test_what_is_written_over_a_picture_leaves_it_a_copy():
    written = frame(1).astype(np.uint8)
    for y in (20, 60, 110):
        cv2.putText(written, "sold out today", (2, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,), 1)
    assert agree(Overlaid(written.astype(np.float32), frame(1)), EVERYWHERE).score > 0.6


def test_a_shared_frame_is_not_enough():
    rim = np.kron(np.random.default_rng(0).integers(0, 256, (32, 32)), np.ones((4, 4))).astype(np.float32)
    left, right = rim.copy(), rim.copy()
    for side, seed in ((left, 4), (right, 5)):
        side[16:112, 16:112] = cv2.resize(grey(seed), (96, 96), interpolation=cv2.INTER_AREA)
    assert agree(Overlaid(left, right), EVERYWHERE).score < 0.4


def test_a_watermark_on_two_pictures_is_not_enough():
    left, right = frame(1).astype(np.uint8), frame(2).astype(np.uint8)
    for side in (left, right):
        for y in (40, 80, 120):
            cv2.putText(side, "stock photo", (8, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255,), 2)
    assert agree(Overlaid(left.astype(np.float32), right.astype(np.float32)), EVERYWHERE).score < 0.55


def test_text_of_the_same_layout_is_another_page():
    rng = np.random.default_rng(0)
    one, other = (protected_frame(text_page(rng)).astype(np.float32) for _ in range(2))
    assert agree(Overlaid(one, one), EVERYWHERE).score == pytest.approx(1, abs=0.01)
    assert agree(Overlaid(one, other), EVERYWHERE).score < 0.5


def test_a_crop_is_put_where_it_came_from():
    whole = grey(6)
    height, width = whole.shape
    crop = whole[40:150, 60:200]
    to_unit = np.diag([1 / width, 1 / width, 1.0])
    placed = np.array([[1.0, 0, 60], [0, 1, 40], [0, 0, 1]]) @ np.diag([140.0, 140, 1])
    warped, inside = warp_to_frame(crop, to_unit @ placed, (width, height))
    x, y = (np.arange(SIDE) + 0.5) * width / SIDE, (np.arange(SIDE) + 0.5) * height / SIDE
    expected = ((y >= 40) & (y < 150))[:, None] & ((x >= 60) & (x < 200))[None]
    np.testing.assert_array_equal(inside, expected)
    difference = np.abs(warped - protected_frame(whole))[cv2.erode(inside.astype(np.uint8), np.ones((3, 3))) > 0]
    assert np.median(difference) < 4
    agreement, *_ = compare_pixels(crop, protected_frame(whole), to_unit @ placed, (width, height))
    assert agreement.score > 0.9
    assert agreement.coverage == pytest.approx(expected.mean(), abs=0.01)


def test_alignment_mends_a_transform_that_is_a_little_off():
    whole = grey(7)
    off = np.array([[1.01, 0.005, 0.006], [-0.005, 0.99, -0.005], [0, 0, 1]])
    warped, inside = warp_to_frame(whole, off, (256, 192))
    before = agree(Overlaid(warped, protected_frame(whole).astype(np.float32)), inside)
    after, aligned, *_ = compare_pixels(whole, protected_frame(whole), off, (256, 192))
    assert before.score < 0.9 < after.score
    np.testing.assert_allclose(aligned, np.eye(3), atol=0.01)
