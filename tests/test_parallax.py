import cv2
import numpy as np
import pytest
from drawn import picture

from ssld_pipeline.kernels.block_agreement import protected_frame
from ssld_pipeline.kernels.edges import Overlaid
from ssld_pipeline.kernels.parallax import displaced_share

EVERYWHERE = np.ones((128, 128), np.bool_)


def frame(seed):
    return protected_frame(cv2.cvtColor(picture(seed), cv2.COLOR_RGB2GRAY)).astype(np.float32)


def moved(image, by_x, by_y=0):
    return cv2.warpAffine(image, np.float32([[1, 0, by_x], [0, 1, by_y]]), (128, 128), borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_is_where_one_transform_puts_it_whatever_was_done_to_it(seed):
    own = frame(seed)
    rng = np.random.default_rng(seed)
    written = own.astype(np.uint8)
    for line in range(20, 120, 25):
        cv2.putText(written, "in everyone's mind", (2, line), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
    copies = own, 40 + 0.6 * own, cv2.GaussianBlur(own, (0, 0), 2), own + rng.normal(0, 25, own.shape)
    assert [displaced_share(Overlaid(copy.astype(np.float32), own), EVERYWHERE) for copy in copies] == [0] * 4
    for other in (written, frame(seed + 10)):
        assert displaced_share(Overlaid(other.astype(np.float32), own), EVERYWHERE) < 0.1


@pytest.mark.parametrize("seed", range(4))
def test_what_stands_in_front_is_displaced_by_the_step_to_the_side(seed):
    """Behind it nothing is."""
    own = frame(seed)
    in_front = np.zeros((128, 128), np.bool_)
    in_front[:, :72] = True
    for by_x, by_y in ((5, 0), (-4, 2), (0, 5), (1, 1)):
        other = np.where(moved(in_front.astype(np.uint8), by_x, by_y) > 0, moved(own, by_x, by_y), own)
        share = displaced_share(Overlaid(other.astype(np.float32), own), EVERYWHERE)
        assert share > 0.3 if max(abs(by_x), abs(by_y)) > 3 else share == 0, (by_x, by_y, share)
        behind = moved(in_front.astype(np.uint8), 8) == 0
        assert displaced_share(Overlaid(other.astype(np.float32), own), behind) == 0


def test_what_is_flat_or_hardly_seen_tells_nothing():
    own, few = frame(1), np.zeros((128, 128), np.bool_)
    few[8:24, 8:72] = True
    away = Overlaid(moved(own, 5), own)
    assert displaced_share(away, EVERYWHERE) > 0.5
    assert displaced_share(away, few) == 0
    flat = np.full((128, 128), 90, np.float32)
    assert displaced_share(Overlaid(own, flat), EVERYWHERE) == displaced_share(Overlaid(flat, own), EVERYWHERE) == 0
