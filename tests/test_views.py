"""Augmented views: drawn as stated, stored as parameters, replayed bit for bit, and labelled once."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from torchvision.transforms.functional import adjust_brightness, adjust_contrast, adjust_saturation

from ssld_pipeline.errors import BadImage
from ssld_pipeline.kernels.images import decode, encode_jpeg, evaluation_view
from ssld_pipeline.kernels.soft_label import dense, from_probs
from ssld_pipeline.training.recipe import Recipe
from ssld_pipeline.training.stored_labels import SoftLabel, logits_of
from ssld_pipeline.training.views import (
    Replay,
    SourceImage,
    cut_replay,
    draw,
    least_short_side,
    replay_view,
)

RECIPE = Recipe(image_size=48, crop_pct=0.875, min_crop_area=0.2, jitter=0.3, seed=5)


def picture(width: int, height: int, seed: int = 0) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return encode_jpeg(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def as_stored(replay: Replay) -> Replay:
    """Through the columns' float32 and back."""
    left, top, width, height, flipped, *factors = np.array(replay, np.float32).tolist()
    return Replay(left, top, width, height, bool(flipped), *factors)


@pytest.mark.parametrize("size", [(70, 90), (640, 480), (1100, 1300)], ids=str)  # the last two are decoded reduced
def test_a_stored_view_is_replayed_bit_for_bit(size):
    data = picture(*size)
    for number in range(1, 9):
        pixels, replay = SourceImage(data).view("pool/a.jpg", number, RECIPE)
        assert pixels.shape == (48, 48, 3)
        assert np.array_equal(replay_view(data, as_stored(replay), RECIPE), pixels)


def test_view_zero_is_the_evaluation_view_whatever_else_is_cut():
    data = picture(640, 480)
    source = SourceImage(data)
    source.view("pool/a.jpg", 1, RECIPE)
    pixels, _ = source.view("pool/a.jpg", 0, RECIPE)
    expected = evaluation_view(decode(data, min_short_side=round(48 / 0.875)).pixels, 48, 0.875)
    assert np.array_equal(pixels, expected)


def test_an_image_is_decoded_once_where_its_views_agree_on_the_size(monkeypatch):
    from ssld_pipeline.training import views

    sizes = []
    monkeypatch.setattr(views, "decode", lambda data, **how: sizes.append(how) or decode(data, **how))
    for shape, times in (((80, 90), 1), ((1100, 1300), 2)):
        sizes.clear()
        source = SourceImage(picture(*shape))
        for number in range(5):
            source.view("pool/a.jpg", number, RECIPE)
        assert len(sizes) == times, sizes


def test_views_differ_by_number_image_and_seed_and_by_nothing_else():
    reference = draw("pool/a.jpg", 1, 300, 200, RECIPE)
    assert draw("pool/a.jpg", 1, 300, 200, replace(RECIPE, crop_pct=0.5)) == reference
    others = [draw("pool/a.jpg", 2, 300, 200, RECIPE), draw("pool/b.jpg", 1, 300, 200, RECIPE)]
    others.append(draw("pool/a.jpg", 1, 300, 200, replace(RECIPE, seed=6)))
    assert len({reference, *others}) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 3000), st.integers(8, 3000), st.floats(0.01, 1), st.floats(0, 0.9), st.integers(1, 50))
def test_parameters_lie_in_their_ranges(width, height, area, jitter, number):
    recipe = Recipe(32, 0.875, area, jitter, 1)
    replay = draw("pool/x.jpg", number, width, height, recipe)
    assert as_stored(replay) == replay
    assert 0 <= replay.left <= width - replay.width and 0 <= replay.top <= height - replay.height
    factors = np.array([replay.brightness, replay.contrast, replay.saturation])
    assert (np.abs(factors - 1) <= jitter + 1e-6).all()


def test_areas_and_flips_are_distributed_as_stated():
    recipe = Recipe(32, 0.875, 0.25, 0.4)
    found = [draw(f"pool/{k}.jpg", 1, 400, 400, recipe) for k in range(2000)]
    areas = np.array([r.width * r.height for r in found]) / 160_000
    assert areas.min() > 0.24 and areas.mean() == pytest.approx(0.559, abs=0.015)  # those that fit
    assert np.mean([r.flipped for r in found]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([r.contrast for r in found]) == pytest.approx(1, abs=0.02)
    assert np.std([r.saturation for r in found]) == pytest.approx(0.8 / np.sqrt(12), rel=0.06)


def test_the_crop_is_the_box_and_the_flip_mirrors_it():
    image = decode(picture(200, 160))
    box = cut_replay(image, Replay(20, 30, 48, 48), 48)
    assert np.array_equal(box, image.pixels[30:78, 20:68])
    assert np.array_equal(cut_replay(image, Replay(20, 30, 48, 48, flipped=True), 48), box[:, ::-1])


def test_colours_are_torchvisions():
    image = decode(picture(64, 64))
    found = cut_replay(image, Replay(0, 0, 64, 64, False, 1.3, 0.7, 1.6), 64)
    view = PillowImage.fromarray(image.pixels)
    expected = adjust_saturation(adjust_contrast(adjust_brightness(view, 1.3), 0.7), 1.6)
    assert np.array_equal(found, np.array(expected))
    assert not np.array_equal(found, image.pixels)


def test_a_reduced_jpeg_keeps_the_view_in_its_place():
    """The box is in pixels of the source, whatever size it was decoded at."""
    data = picture(1200, 900)
    replay = Replay(300, 200, 600, 500)
    reduced = decode(data, min_short_side=200)
    assert reduced.pixels.shape[0] < 900
    one, other = (cut_replay(image, replay, 48).astype(int) for image in (reduced, decode(data)))
    assert np.abs(one - other).mean() < 3


def test_what_cannot_be_decoded_has_no_views():
    with pytest.raises(BadImage):
        SourceImage(picture(64, 64)[:200]).view("pool/a.jpg", 1, RECIPE)


def test_least_short_side_leaves_the_narrowest_crop_as_large_as_the_view():
    for seed in range(300):
        replay = draw(f"pool/{seed}.jpg", 1, 5000, 4000, RECIPE)
        scale = least_short_side(48, RECIPE.min_crop_area) / 4000
        assert min(replay.width, replay.height) * scale >= 47.5


@pytest.mark.parametrize("num_kept", [3, 10])
def test_logits_of_stored_labels_give_the_stored_distribution(num_kept):
    probs = np.random.default_rng(0).dirichlet(np.full(10, 0.3), 20)
    labels = from_probs(probs, num_kept)
    logits = logits_of(SoftLabel(labels.class_ids, labels.probs, labels.tail_prob), 10)
    expected = dense(labels.class_ids, labels.probs, labels.tail_prob, 10)
    np.testing.assert_allclose(torch.softmax(logits, 1).numpy(), expected, atol=2e-7)


def test_a_small_tail_keeps_its_logarithm():
    label = SoftLabel(np.array([[2]], np.int32), np.ones((1, 1), np.float32), np.full(1, 3e-15, np.float32))
    log_probs = torch.log_softmax(logits_of(label, 4), 1)[0]
    assert log_probs[[0, 1, 3]].tolist() == pytest.approx([np.log(1e-15)] * 3, rel=1e-5)


def test_a_probability_of_zero_has_a_logarithm():
    label = SoftLabel(np.array([[2]], np.int32), np.ones((1, 1), np.float32), np.zeros(1, np.float32))
    logits = logits_of(label, 4)
    assert torch.isfinite(logits).all()
    assert torch.softmax(logits, 1)[0, 2] == pytest.approx(1, abs=1e-8)
