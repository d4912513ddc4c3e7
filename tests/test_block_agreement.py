import cv2
import numpy as np
import pytest
from drawn import picture

from ssld_pipeline.kernels.block_agreement import agree_in_blocks, compare_pixels, protected_frame, warp_to_frame
from ssld_pipeline.kernels.sift import resize_grey

EVERYWHERE = np.ones((64, 64), np.bool_)


def grey(seed, width=320, height=240):
    return resize_grey(picture(seed, width, height), 256)


def test_agreement_equals_a_count_block_by_block():
    left = protected_frame(grey(0)).astype(np.float32)
    right = left + np.random.default_rng(0).normal(0, 25, (64, 64)).astype(np.float32)
    a, b = (cv2.GaussianBlur(side, (0, 0), 0.7) for side in (left, right))
    agrees, inner, means = [], [], []
    for y in range(0, 64, 8):
        for x in range(0, 64, 8):
            u, v = a[y : y + 8, x : x + 8].ravel(), b[y : y + 8, x : x + 8].ravel()
            means.append((u.mean(), v.mean()))
            if max(u.std(), v.std()) >= 3:
                agrees.append(np.corrcoef(u, v)[0, 1] > 0.8)
                if 8 <= y < 56 and 8 <= x < 56:
                    inner.append(agrees[-1])
    found = agree_in_blocks(left, right, EVERYWHERE)
    assert found.num_blocks == len(agrees)
    assert found.score == pytest.approx(min(np.mean(agrees), np.mean(inner), np.corrcoef(np.transpose(means))[0, 1]))
    assert 0.1 < found.score < 0.95


def test_brightness_and_contrast_do_not_matter_and_another_picture_does_not_agree():
    frame = protected_frame(grey(1)).astype(np.float32)
    assert agree_in_blocks(0.5 * frame + 60, frame, EVERYWHERE).score == pytest.approx(1)
    assert agree_in_blocks(protected_frame(grey(2)).astype(np.float32), frame, EVERYWHERE).score < 0.2


def test_blocks_without_texture_say_nothing():
    flat = np.full((64, 64), 128, np.float32)
    assert agree_in_blocks(flat, flat + 40, EVERYWHERE) == (0, 0, 1)
    half = flat.copy()
    half[:, :32] = protected_frame(grey(3))[:, :32]
    assert agree_in_blocks(half, half, EVERYWHERE).num_blocks <= 40


def test_a_shared_frame_is_not_enough():
    rim = np.kron(np.random.default_rng(0).integers(0, 256, (32, 32)), np.ones((2, 2))).astype(np.float32)
    left, right = rim.copy(), rim.copy()
    for side, seed in ((left, 4), (right, 5)):
        side[8:56, 8:56] = cv2.resize(grey(seed), (48, 48), interpolation=cv2.INTER_AREA)
    assert agree_in_blocks(left, right, EVERYWHERE).score < 0.3


def test_a_watermark_on_two_flat_grounds_is_not_enough():
    left, right = np.full((64, 64), 90, np.uint8), np.full((64, 64), 160, np.uint8)
    left[20:], right[:, 30:] = 140, 110
    for side in (left, right):
        cv2.putText(side, "stock", (8, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,), 1)
    assert agree_in_blocks(left.astype(np.float32), right.astype(np.float32), EVERYWHERE).score < 0.5


def test_a_crop_is_put_where_it_came_from():
    whole = grey(6)
    height, width = whole.shape
    crop = whole[40:150, 60:200]
    to_unit = np.diag([1 / width, 1 / width, 1.0])
    placed = np.array([[1.0, 0, 60], [0, 1, 40], [0, 0, 1]]) @ np.diag([140.0, 140, 1])
    warped, inside = warp_to_frame(crop, to_unit @ placed, (width, height))
    x, y = (np.arange(64) + 0.5) * width / 64, (np.arange(64) + 0.5) * height / 64
    expected = ((y >= 40) & (y < 150))[:, None] & ((x >= 60) & (x < 200))[None]
    np.testing.assert_array_equal(inside, expected)
    difference = np.abs(warped - protected_frame(whole))[cv2.erode(inside.astype(np.uint8), np.ones((3, 3))) > 0]
    assert np.median(difference) < 4
    agreement, _ = compare_pixels(crop, protected_frame(whole), to_unit @ placed, (width, height))
    assert agreement.score > 0.9
    assert agreement.num_blocks < 30


def test_alignment_mends_a_transform_that_is_a_little_off():
    whole = grey(7)
    off = np.array([[1.01, 0.005, 0.006], [-0.005, 0.99, -0.005], [0, 0, 1]])
    warped, inside = warp_to_frame(whole, off, (256, 192))
    before = agree_in_blocks(warped, protected_frame(whole).astype(np.float32), inside)
    after, aligned = compare_pixels(whole, protected_frame(whole), off, (256, 192))
    assert before.score < 0.9 < after.score
    np.testing.assert_allclose(aligned, np.eye(3), atol=0.01)
