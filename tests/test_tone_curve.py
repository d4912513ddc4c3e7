import cv2
import numpy as np
import pytest
from drawn import encoded, picture
from test_dedupe import SIZE, build, catalog_rows, opened

from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.pixels.block_agreement import agree, protected_frame
from ssld_pipeline.copies.pixels.edges import Overlaid
from ssld_pipeline.copies.pixels.tone_curve import explained_share

SIDE = 128
EVERYWHERE = np.ones((SIDE, SIDE), np.bool_)


def scribbled(pixels, seed, width=6, num=20):
    """Under a thick line to and fro."""
    corners = np.random.default_rng(seed).integers(0, pixels.shape[1::-1], (num, 2)).astype(np.int32)
    return cv2.polylines(pixels.copy(), [corners], False, (250.0, 250.0, 40.0), width)


def frame(seed):
    return protected_frame(resize_grey(picture(seed, 320, 240), 256)).astype(np.float32)


def counted(pool, protected, inside):
    """Again, pixel by pixel: the medians of sorted levels, and who lies near them."""
    left, right = (cv2.GaussianBlur(side, (0, 0), 1.0) for side in (pool, protected))
    padded = np.pad(right.astype(np.float64), 8, mode="reflect")
    groups, everything = {}, []
    for y in range(SIDE):
        for x in range(SIDE):
            around = inside[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            if around.all() and padded[y : y + 17, x : x + 17].std() > 5:
                level = int(np.rint(right[y, x]))
                groups.setdefault(int(np.rint(left[y, x])) // 8, []).append(level)
                everything.append(level)

    def near(levels):
        median = sorted(levels)[(len(levels) + 1) // 2 - 1]
        return sum(abs(level - median) <= 10 for level in levels)

    by_curve, by_one = sum(map(near, groups.values())), near(everything)
    return (by_curve - by_one) / (len(everything) - by_one)


@pytest.mark.parametrize(("seed", "noise"), [(0, 10), (3, 40)])
def test_the_share_equals_a_count_pixel_by_pixel(seed, noise):
    protected = frame(seed)
    pool = np.clip(0.6 * protected + np.random.default_rng(seed).normal(40, noise, protected.shape), 0, 255)
    inside = EVERYWHERE.copy()
    inside[:, :20] = False
    found = explained_share(Overlaid(pool.astype(np.float32), protected), inside)
    assert found == pytest.approx(counted(pool.astype(np.float32), protected, inside), abs=0.01)


@pytest.mark.parametrize(
    "curve",
    [lambda x: x, lambda x: 255 - x, lambda x: 255 * (x / 255) ** 2.2, lambda x: 60 + 0.4 * x, lambda x: (x > 127) * x],
    ids=["same", "negative", "gamma", "flat", "part of it black"],
)
def test_any_tone_curve_explains_the_picture(curve):
    protected = frame(1)
    explained = explained_share(Overlaid(curve(protected).astype(np.float32), protected), EVERYWHERE)
    assert explained > (0.4 if curve(100.0) == 0 else 0.9)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_scribbled_over_stays_explained_and_what_shares_the_scribble_does_not(seed):
    protected, other = frame(seed), frame(seed + 10)
    copy = scribbled(protected, seed, 3, num=14)
    assert agree(Overlaid(copy, protected), EVERYWHERE).score < 0.8
    assert explained_share(Overlaid(copy, protected), EVERYWHERE) > 0.6
    assert explained_share(Overlaid(scribbled(other, seed, 3, num=14), copy), EVERYWHERE) < 0.4


def test_flat_ground_and_too_little_to_see_explain_nothing():
    flat = np.full((SIDE, SIDE), 120, np.float32)
    assert explained_share(Overlaid(flat, flat), EVERYWHERE) == 0
    corner = np.zeros((SIDE, SIDE), np.bool_)
    corner[:15, :15] = True
    assert explained_share(Overlaid(frame(2), frame(2)), corner) == 0
    assert explained_share(Overlaid(flat, frame(2)), EVERYWHERE) == 0


def test_scribbled_copies_are_found_and_nothing_else_under_a_scribble(tmp_path):
    own = {f"protected/{i}": encoded(picture(80 + i, *SIZE)) for i in range(6)}
    marked = {"protected/marked": encoded(scribbled(picture(90, *SIZE), 9, 9, 14))}
    index, _, _ = build(tmp_path / "index", own | marked)
    copies = {f"pool/{i}": encoded(scribbled(picture(80 + i, *SIZE), i, 9, 14)) for i in range(6)}
    others = {f"pool/other{i}": encoded(scribbled(picture(95 + i, *SIZE), 9, 9, 14)) for i in range(6)}
    rows = opened(index)(catalog_rows(tmp_path / "pool", copies | others)).rows.to_pylist()
    removed = [row for row in rows if row["is_duplicate"]]
    assert all(row["protected_id"][-2:] == row["image_id"][-2:] for row in removed)
    assert len(removed) >= 5 and any(row["score"] < 0.45 for row in removed)
