from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssld_pipeline.training.augmentation import Crop, cut, draw_crop, random_generator


@given(st.integers(8, 900), st.integers(8, 900), st.floats(0.01, 1), st.integers(0, 2**62))
def test_a_crop_lies_within_the_image_and_has_nearly_the_wanted_shape(
    width: int, height: int, min_area: float, place: int
) -> None:
    crop = draw_crop(width, height, min_area, random_generator(0, 0, place % 2**39))
    assert 0 <= crop.left <= width - crop.width and 0 <= crop.top <= height - crop.height
    # half a pixel of rounding on either side
    assert (crop.width - 0.5) / (crop.height + 0.5) <= 4 / 3 + 1e-9
    assert (crop.width + 0.5) / (crop.height - 0.5) >= 3 / 4 - 1e-9


def test_area_aspect_place_and_mirroring_are_distributed_as_published() -> None:
    crops = [draw_crop(1000, 1000, 0.08, random_generator(7, 3, place)) for place in range(4000)]
    area = np.array([c.width * c.height / 1e6 for c in crops])
    aspect = np.array([c.width / c.height for c in crops])
    assert stats.kstest(aspect, stats.uniform(3 / 4, 4 / 3 - 3 / 4).cdf).pvalue > 1e-3
    # Above 3/4 some aspects no longer fit and the area is drawn from what does.
    low = area[area < 0.7]
    assert low.min() > 0.079 and len(low) / len(area) == pytest.approx(0.62 / 0.8, abs=0.05)
    lefts = np.array([c.left / (1000 - c.width) for c in crops if c.width < 900])
    assert stats.kstest(lefts, stats.uniform(0, 1).cdf).pvalue > 1e-3
    assert np.mean([c.flipped for c in crops]) == pytest.approx(0.5, abs=0.03)


def test_a_draw_depends_on_seed_epoch_and_place_alone() -> None:
    def draw(*key: int) -> Crop:
        return draw_crop(500, 375, 0.08, random_generator(*key))

    keys = [(s, e, p) for s in (-1, 0, 1) for e in (0, 1, 359) for p in (0, 1, 2**33)]
    first = {key: draw(*key) for key in keys}
    assert {key: draw(*key) for key in reversed(keys)} == first
    assert len(set(first.values())) == len(keys)


def test_what_is_cut_is_what_the_crop_says_mirrored_or_not() -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (40, 60, 3)).copy()
    view = cut(ramp, Crop(10, 5, 32, 32, flipped=False), 32)
    assert np.array_equal(view, ramp[5:37, 10:42])
    assert np.array_equal(cut(ramp, Crop(10, 5, 32, 32, flipped=True), 32), view[:, ::-1])


def test_fine_stripes_do_not_alias_when_a_large_crop_shrinks() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    view = cut(stripes, Crop(0, 0, 400, 400, flipped=False), 50)
    assert abs(view.astype(int) - 127).max() <= 2
