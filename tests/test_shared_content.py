"""What protected images have in common is no evidence of a copy, and what is their own still is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from drawn import encoded, picture
from test_dedupe import SIZE, build, catalog_rows, opened

from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.geometry.verify_geometry import is_whole
from ssld_pipeline.copies.index.protected_index import open_index
from ssld_pipeline.copies.index.shared_content import find_shared_parts, repeats_itself
from ssld_pipeline.copies.pixels import block_agreement
from ssld_pipeline.copies.pixels.block_agreement import FRAME_SIDE_PX, compare_pixels, protected_frame, warp_to_frame
from ssld_pipeline.copies.pixels.edges import Overlaid
from ssld_pipeline.copies.pixels.shared_edges import shared_edges

EVERYWHERE = np.ones((FRAME_SIDE_PX, FRAME_SIDE_PX), np.bool_)
MARKED = np.zeros((240, 320), np.uint8)
for _x, _y in ((10, 60), (170, 110), (10, 160), (170, 215)):
    cv2.putText(MARKED, "stock", (_x, _y), cv2.FONT_HERSHEY_DUPLEX, 1.6, 255, 7)


def tiled(image):
    """Under the bold watermark of a site."""
    return np.where(MARKED[..., None] > 0, (0.2 * image + 200).astype(np.uint8), image)


def checks(angle, period, colors):
    y, x = np.mgrid[:240, :320]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    dots = (np.sin(2 * np.pi * u / period) + np.sin(2 * np.pi * v / period) > 0.9)[..., None]
    return np.where(dots, *np.array(colors, np.uint8)[:, None, None])


def removed(index, folder, images):
    rows = opened(index)(catalog_rows(folder, images)).rows.to_pylist()
    return {(row["image_id"], row["protected_id"]) for row in rows if row["is_duplicate"]}


def test_shared_edges_are_those_of_the_watermark():
    left, right = (protected_frame(resize_grey(tiled(picture(seed, *SIZE)), 320)) for seed in (1, 2))
    found = shared_edges(left.astype(np.float32), right.astype(np.float32), EVERYWHERE)
    near = cv2.dilate(protected_frame(MARKED), np.ones((9, 9))) > 0
    assert found[near].mean() > 0.3
    assert found[~near].mean() < 0.05
    assert not shared_edges(left.astype(np.float32), right.astype(np.float32), ~EVERYWHERE).any()


def test_a_picture_shares_all_its_edges_with_itself():
    frame = protected_frame(resize_grey(picture(3, *SIZE), 320)).astype(np.float32)
    length = np.hypot(*(cv2.Scharr(cv2.GaussianBlur(frame, (0, 0), 1), cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))))
    assert shared_edges(frame, frame, EVERYWHERE)[length > np.quantile(length, 0.5)].all()


@pytest.mark.slow
@pytest.mark.parametrize("others", [6, 0])
def test_a_bold_watermark_makes_no_copy_however_many_protected_images_bear_it(tmp_path, others):
    marked = {f"protected/{i}": encoded(tiled(picture(20 + i, *SIZE))) for i in range(1 + others)}
    plain = {f"protected/plain{i}": encoded(picture(40 + i, *SIZE)) for i in range(4)}
    index, figures, _ = build(tmp_path / "one", marked | plain)
    assert figures["num_sharing"] == len(marked)
    pool = {f"pool/other{i}": encoded(tiled(picture(60 + i, *SIZE))) for i in range(8)}
    pool |= {
        "pool/crop": encoded(tiled(picture(20, *SIZE))[20:220, 40:300]),
        "pool/mirrored": encoded(tiled(picture(20, *SIZE))[:, ::-1], 50),
        "pool/of plain": encoded(picture(41, *SIZE)[:, 30:300]),
    }
    expected = {("pool/crop", "protected/0"), ("pool/mirrored", "protected/0"), ("pool/of plain", "protected/plain1")}
    assert removed(index, tmp_path / "pool", pool) == expected


def on_page(image):
    """In the page of a shop, which shows more than its picture: columns of words, and the same six small pictures."""
    page = np.full((360, 480, 3), 250, np.uint8)
    page[20:206, 14:262] = cv2.resize(image, (248, 186), interpolation=cv2.INTER_AREA)
    rng = np.random.default_rng(0)
    for y in range(20, 350, 15):
        words = " ".join("".join(rng.choice([*"abcdefghiklmnoprstu"], rng.integers(2, 8))) for _ in range(9))
        cv2.putText(page, words, (275 if y < 215 else 14, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1)
    for number in range(6):
        small = cv2.resize(picture(800 + number, *SIZE), (72, 54), interpolation=cv2.INTER_AREA)
        page[220:274, 14 + 78 * number : 86 + 78 * number] = small
    return page


@pytest.mark.slow
def test_pages_that_differ_in_one_picture_are_no_copies_of_each_other(tmp_path):
    pages = {f"protected/{i}": encoded(on_page(picture(20 + i, *SIZE))) for i in range(3)}
    plain = {f"protected/plain{i}": encoded(picture(40 + i, *SIZE)) for i in range(4)}
    index, figures, _ = build(tmp_path / "pages", pages | plain)
    assert figures["num_sharing"] == len(pages)
    pool = {f"pool/other{i}": encoded(on_page(picture(60 + i, *SIZE))) for i in range(4)}
    pool |= {
        "pool/smaller": encoded(cv2.resize(on_page(picture(20, *SIZE)), (300, 225), interpolation=cv2.INTER_AREA)),
        "pool/cropped": encoded(on_page(picture(21, *SIZE))[10:330, 5:430], 60),
    }
    expected = {("pool/smaller", "protected/0"), ("pool/cropped", "protected/1")}
    assert removed(index, tmp_path / "pool", pool) == expected


@pytest.mark.slow
def test_an_altered_copy_among_the_protected_images_hides_nothing(tmp_path):
    smaller = cv2.GaussianBlur(picture(7, *SIZE), (0, 0), 1.5)[20:230, 20:310]
    images = {"protected/a": encoded(picture(7, *SIZE)), "protected/b": encoded(smaller, 60)}
    index, figures, _ = build(tmp_path / "two", images)
    assert figures["num_sharing"] == 0
    found = removed(index, tmp_path / "pool", {"pool/mirrored": encoded(picture(7, *SIZE)[:, ::-1])})
    assert ("pool/mirrored", "protected/a") in found


def test_a_pattern_is_found_whole_and_its_like_are_left_alone(tmp_path):
    own = checks(0.3, 34, ((200, 40, 40), (240, 230, 200)))
    images = {"protected/pattern": encoded(own), "protected/photo": encoded(picture(5, *SIZE))}
    index, figures, _ = build(tmp_path / "patterns", images)
    assert figures["num_repeating"] == 1
    pool = {
        "pool/smaller": encoded(cv2.resize(own, (240, 180), interpolation=cv2.INTER_AREA)),
        "pool/turned": encoded(np.rot90(own)),
        "pool/like 1": encoded(checks(1.1, 34, ((20, 40, 140), (140, 230, 200)))),
        "pool/like 2": encoded(checks(0.3, 21, ((20, 40, 140), (140, 230, 200)))),
    }
    expected = {("pool/smaller", "protected/pattern"), ("pool/turned", "protected/pattern")}
    assert removed(index, tmp_path / "pool", pool) == expected


def test_the_symmetry_of_a_thing_is_its_own(tmp_path):
    half = picture(9, 160, 240)
    images = {"protected/symmetric": encoded(np.concatenate((half, half[:, ::-1]), axis=1))}
    index, figures, _ = build(tmp_path / "one", images)
    assert figures["num_sharing"] == figures["num_repeating"] == 0
    assert not find_shared_parts(open_index(index / "0", 4), 0).pixels.any()


def test_shared_pixels_count_only_in_what_agrees_in_all():
    left, right = (tiled(picture(seed, *SIZE)) for seed in (1, 2))
    grey, size = resize_grey(left, 320), (320, 240)
    frame = protected_frame(resize_grey(right, 320))
    identity = np.eye(3)
    shared = shared_edges(warp_to_frame(grey, identity, size)[0], frame.astype(np.float32), EVERYWHERE)
    assert compare_pixels(grey, frame, identity, size, shared)[0].score < 0.3
    own = protected_frame(grey)
    whole = compare_pixels(grey, own, identity, size)
    assert compare_pixels(grey, own, identity, size, EVERYWHERE).agreement == pytest.approx(whole.agreement)
    assert whole[0].score > 0.95


def test_what_is_darkened_to_black_is_not_held_against_a_copy():
    image = picture(1, *SIZE)
    darker = np.clip(image.astype(int) - 110, 0, 255).astype(np.uint8)
    barred = image.copy()
    barred[:110, :150] = 0
    frame = protected_frame(resize_grey(image, 320))
    for copy in (darker, barred):
        assert compare_pixels(resize_grey(copy, 320), frame, np.eye(3), (320, 240))[0].score > 0.7
    night = np.clip(picture(2, *SIZE).astype(int) - 110, 0, 255).astype(np.uint8)
    assert compare_pixels(resize_grey(night, 320), frame, np.eye(3), (320, 240))[0].score < 0.3


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_whole_on_whole_however_turned(turns, mirrored):
    corners = np.array([[0, 0], [1, 0], [1, 0.75], [0, 0.75]])
    form = np.rot90(np.array([[0, 1], [3, 2]]), turns)
    form = form[:, ::-1] if mirrored else form
    order = [form[0, 0], form[0, 1], form[1, 1], form[1, 0]]
    size = (320, 240) if turns % 2 == 0 else (240, 320)
    source = corners if turns % 2 == 0 else corners[:, ::-1][[0, 3, 2, 1]]
    homography = cv2.getPerspectiveTransform(source.astype(np.float32), corners[order].astype(np.float32))
    assert is_whole(homography, size, (320, 240))
    assert not is_whole(np.diag([0.8, 0.8, 1]) @ homography, size, (320, 240))
    assert not is_whole(np.array([[1, 0, 0.1], [0, 1, 0], [0, 0, 1]]) @ homography, size, (320, 240))


def test_what_is_left_without_the_shared_pixels_counts_no_more_than_all():
    """A striped shirt repeats itself; without it only the floor is left, on which other things lie, too."""
    floor = resize_grey(picture(8, *SIZE), 320)
    shirt, coat = floor.copy(), floor.copy()
    shirt[50:190, 80:240] = np.where(np.arange(140) // 7 % 2, 230, 30)[:, None]
    coat[30:210, 90:230] = 90
    stripes = np.zeros_like(EVERYWHERE)
    stripes[24:104, 28:100] = True
    frame = protected_frame(shirt)
    without, *_ = compare_pixels(coat, frame, np.eye(3), (320, 240))
    assert agree(coat, shirt, ~stripes).score > 0.9
    assert compare_pixels(coat, frame, np.eye(3), (320, 240), stripes)[0].score == without.score < 0.45


def test_what_is_black_in_both_is_not_lost():
    """Nor does a black thing vanish, so that the ground alone would count."""
    ground = resize_grey(picture(8, *SIZE), 320)
    long, wide = ground.copy(), ground.copy()
    long[10:230, 110:200] = 0
    wide[70:170, 20:300] = 0
    frame = protected_frame(long)
    assert compare_pixels(wide, frame, np.eye(3), (320, 240))[0].score < 0.45
    assert compare_pixels(long, frame, np.eye(3), (320, 240))[0].score > 0.95


def agree(left, right, inside):
    pictures = Overlaid(*(protected_frame(side).astype(np.float32) for side in (left, right)))
    return block_agreement.agree(pictures, inside)


@pytest.mark.parametrize("angle", [0.0, 0.15, 0.6])
def test_a_lattice_is_known_as_one_whichever_way_it_lies(tmp_path, angle):
    """Each of its corners is like every other, so that key points alone give no one shift."""
    y, x = np.mgrid[:256, :256]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    lit = ((np.floor(u / 26) + np.floor(v / 26)) % 2)[..., None] > 0
    dots = (np.hypot(u % 44 - 22, v % 44 - 22) < 10)[..., None]
    images = {
        "protected/checks": encoded(np.where(lit, (245, 245, 80), (130, 120, 180)).astype(np.uint8)),
        "protected/dots": encoded(np.where(dots, (40, 40, 240), (200, 190, 100)).astype(np.uint8)),
        "protected/photo": encoded(picture(6, *SIZE)),
    }
    _, figures, _ = build(tmp_path / "lattices", images)
    assert figures["num_repeating"] == 2


def test_what_alignment_leads_back_onto_itself_does_not_repeat(tmp_path):
    folder, _, _ = build(tmp_path / "one", {"protected/0": encoded(picture(1, *SIZE))})
    index, moved = open_index(folder / "0", 4), np.eye(3)
    assert not repeats_itself(index, 0, 1.0, moved)
    moved[0, 2] = 0.2
    assert repeats_itself(index, 0, 1.0, moved) and not repeats_itself(index, 0, 0.8, moved)
    moved[:2, 2] = 0.5, 0.4
    assert not repeats_itself(index, 0, 1.0, moved), "a quarter that lies on another is no pattern"
    mirror = np.array([[-1, 0, 0.8], [0, 1, 0], [0, 0, 1]])
    assert not repeats_itself(index, 0, 1.0, mirror)


def test_copies_of_a_seamless_picture_are_found_moved_too(tmp_path):
    """Two quarters of it are alike, as a filter makes them that lays the picture on itself."""
    seamless = picture(8, *SIZE)
    seamless[120:, 160:] = seamless[:120, :160]
    folder, figures, _ = build(tmp_path / "seamless", {"protected/seamless": encoded(seamless)})
    assert figures["num_repeating"] == 0
    turned = cv2.warpAffine(seamless, cv2.getRotationMatrix2D((160, 120), 9, 1.0), SIZE)
    assert removed(folder, tmp_path / "pool", {"pool/turned": encoded(turned)}) == {
        ("pool/turned", "protected/seamless")
    }


def test_a_strip_of_what_pictures_share_is_no_copy_though_it_agrees_in_all():
    """Three quarters of what is seen are a pattern that both pictures have; what lies between tells them apart."""
    rng = np.random.default_rng(1)
    lit = np.kron(rng.random((12, 16)) < 0.7, np.ones((20, 20))) > 0
    pattern = np.kron(rng.integers(0, 256, (60, 80)), np.ones((4, 4)))

    def under_pattern(seed):
        return np.where(lit, pattern, resize_grey(cv2.GaussianBlur(picture(seed, *SIZE), (0, 0), 3), 320)).astype(
            np.uint8
        )

    wide = cv2.dilate(lit.astype(np.uint8), np.ones((5, 5)))
    shared = cv2.resize(wide, (FRAME_SIDE_PX, FRAME_SIDE_PX), interpolation=cv2.INTER_NEAREST) > 0
    own, place = protected_frame(under_pattern(1)), np.array([[1, 0, 0], [0, 1, 150 / 320], [0, 0, 1.0]])

    def score(seed, mask):
        return compare_pixels(under_pattern(seed)[150:], own, place, SIZE, mask)[0].score

    assert score(3, None) > 0.8 and score(3, shared) < 0.1 and score(1, shared) > 0.9
