"""What is looked at again, and what two looks at one protected image say together."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from drawn import picture

from ssld_pipeline.config.dedupe import DedupeConfig
from ssld_pipeline.copies import search
from ssld_pipeline.copies.evidence import Evidence
from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.pixels.block_agreement import protected_frame
from ssld_pipeline.copies.pool_image import PoolImage
from ssld_pipeline.copies.search import _compare, _is_settled, _together
from ssld_pipeline.stages.find_copies import search_settings

SETTINGS = search_settings(DedupeConfig())


def test_the_second_look_at_a_large_image_adds_key_points_to_those_of_the_first():
    gravel = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    image = PoolImage(cv2.GaussianBlur(gravel, (0, 0), 3), SETTINGS)
    (grey, first), (again, second) = image.first_look, image.second_look
    assert grey is again and grey.shape == (300, 400)
    assert len(first) == 250 < len(second) <= 500
    np.testing.assert_array_equal(second.descriptors[:250], first.descriptors)
    apart = np.abs(second.places[250:, None] - first.places[None]).max(axis=2)
    assert apart.min(axis=1).min() > 0, "a key point is given twice"


def test_the_second_look_at_a_small_image_is_at_a_larger_one():
    grey, points = PoolImage(picture(1, 320, 240), SETTINGS).second_look
    assert grey.shape == (360, 480) and len(points) <= 500


def test_the_large_picture_of_a_page_is_searched_as_a_whole_image_is_the_small_one_with_less():
    page = np.full((300, 400, 3), 255, np.uint8)
    page[10:290, 10:260] = picture(1, 250, 280)
    page[10:110, 280:390] = picture(2, 110, 100)
    panels = [panel for panel, _ in PoolImage(page, SETTINGS).panels]
    assert [panel.first_look.grey.shape for panel in panels] == [(280, 250), (100, 110)]
    assert panels[0].settings == SETTINGS
    small = panels[1].settings
    assert small.image_side < SETTINGS.image_side and small.pool_keypoints < SETTINGS.pool_keypoints
    assert small.min_votes > SETTINGS.min_votes


def test_beyond_doubt_is_only_what_the_decision_takes_for_a_copy_too():
    sure = Evidence(3, "sift", 80, 12, 0.6, 64, 0.3, np.eye(3))
    assert _is_settled([sure])
    for less in ({"num_inliers": 11}, {"score": 0.59}, {"num_blocks": 63}, {"coverage": 0.29}):
        assert not _is_settled([replace(sure, **less)])


@pytest.mark.parametrize(("score", "compared"), [(0.9, [7, 8]), (0.5, [7, 8, 9, 5])])
def test_beside_what_is_beyond_doubt_only_what_has_a_quarter_of_its_votes_is_compared(monkeypatch, score, compared):
    looked_at = []

    def verify(look, image, index, settings):
        looked_at.append(image)
        return Evidence(image, "sift", 40, 30, score if image == 7 else 0.1, 250, 1.0, np.eye(3))

    monkeypatch.setattr(search, "propose", lambda *_: (np.array([7, 8, 9, 5]), np.array([40, 10, 9, 9])))
    monkeypatch.setattr(search, "_verify", verify)
    search._pairs_by_keypoints(PoolImage(picture(1, 480, 360), SETTINGS), None, SETTINGS)
    assert looked_at[:4] == compared


@pytest.mark.parametrize("swapped", [False, True])
def test_each_look_says_what_it_knows_best(swapped):
    turned = np.diag([1.0, 1.1, 1.0])
    matched = Evidence(3, "sift", 80, 60, 0.34, 256, 1.0, np.eye(3), explained=0.54)
    alike = Evidence(3, "perceptual", 0, 0, 0.37, 256, 1.0, turned, explained=0.42)
    found = _together(*((alike, matched) if swapped else (matched, alike)))
    assert (found.method, found.num_matches, found.num_inliers) == ("perceptual", 80, 60)
    assert (found.score, found.explained) == (0.37, 0.54) and found.homography is turned


def from_elsewhere(image):
    """The same place, what stands here and there in front seen 14 pixels further to one side or the other."""
    other = image.copy()
    for top, left, by in ((10, 15, 14), (10, 125, -14), (10, 235, 14), (130, 15, -14), (130, 125, 14), (130, 235, -14)):
        other[top : top + 100, left : left + 80] = image[top : top + 100, left - by : left - by + 80]
    return other


@pytest.mark.parametrize("swapped", [False, True])
def test_likeness_as_a_whole_does_not_undo_that_it_is_another_photograph(swapped):
    other = Evidence(3, "sift", 30, 20, 0.2, 250, 1.0, np.eye(3), is_other=True)
    for method, score, expected in (("perceptual", 0.6, 0.2), ("perceptual", 0.85, 0.85), ("sift", 0.6, 0.6)):
        pair = Evidence(3, method, 10, 5, score, 250, 1.0, np.eye(3))
        assert _together(*((other, pair) if swapped else (pair, other))).score == expected


@pytest.mark.parametrize("seed", range(4))
def test_another_photograph_of_the_same_place_is_doubtful_where_its_key_points_fit_badly(seed):
    image = picture(seed, 330, 240)
    frame = protected_frame(resize_grey(image, 330))
    index = SimpleNamespace(repeats=[False], frames=[frame], size_of=lambda _: (330, 240), shared_pixels=lambda _: None)

    def score(pool, is_loose):
        return _compare(resize_grey(pool, 330), 0, np.eye(3), "sift", (40, 20), index, is_loose).score

    other = from_elsewhere(image)
    assert score(other, True) == 0.2 < score(other, False) < 0.8
    barred = image.copy()
    barred[::60], barred[60:180, 80:250] = 0, image[60:180, 80:250] // 3 + 150
    loose, tight = score(barred, True), score(barred, False)
    assert 0.45 < loose < 0.8 and loose == pytest.approx(tight, abs=1e-9)
