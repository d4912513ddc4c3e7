import cv2
import numpy as np
import pytest
from drawn import picture, text_page

from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.pixels.block_agreement import compare_pixels, compare_through_blur, protected_frame
from ssld_pipeline.copies.pixels.blur import blur_kernels, likely_blur
from ssld_pipeline.copies.pixels.edges import Overlaid

EVERYWHERE = np.ones((128, 128), np.bool_)
WHOLE = np.diag([1.0, 1.0, 1.0])


def grey(seed):
    return resize_grey(picture(seed), 256)


def frame(seed):
    return protected_frame(grey(seed)).astype(np.float32)


def blurred(image, kernel):
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)


def moved(image, length, angle):
    """As by a camera that moves ``length`` pixels: the mean of the image at all places on the way."""
    places = np.linspace(-length / 2, length / 2, 60)
    height, width = image.shape
    shifts = [np.float32([[1, 0, s * np.cos(angle)], [0, 1, s * np.sin(angle)]]) for s in places]
    moments = [cv2.warpAffine(image, s, (width, height), borderMode=cv2.BORDER_REPLICATE) for s in shifts]
    return np.mean(moments, axis=0).astype(np.uint8)


def matching(own, pool, inside=EVERYWHERE):
    """The one that brings ``own`` nearest to ``pool``, found by blurring with each."""

    def likeness(kernel):
        return np.corrcoef(blurred(own, kernel)[inside], pool[inside])[0, 1]

    return max(blur_kernels(), key=likeness)


@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_is_the_one_that_blurring_with_each_would_choose(seed):
    own = frame(seed)
    for kernel in blur_kernels()[1::7]:
        noise = np.random.default_rng(seed).normal(0, 1, own.shape).astype(np.float32)
        pool = 30 + 0.7 * blurred(own, kernel) + noise
        assert likely_blur(Overlaid(pool, own), EVERYWHERE) is matching(own, pool) is kernel


@pytest.mark.parametrize("seed", range(3))
def test_it_is_found_in_what_is_seen(seed):
    own, kernel = frame(seed), blur_kernels()[4]
    inside = EVERYWHERE.copy()
    inside[:, 80:] = False
    pool = np.where(inside, blurred(own, kernel), np.random.default_rng(seed).uniform(0, 255, own.shape))
    assert likely_blur(Overlaid(pool.astype(np.float32), own), inside) is kernel


def test_what_is_no_blurred_copy_has_none():
    own = frame(0)
    noise = np.random.default_rng(0).normal(0, 20, own.shape).astype(np.float32)
    sharper = own + 2 * (own - cv2.GaussianBlur(own, (0, 0), 2))
    flat = np.full_like(own, 90)
    for pool in (own, 255 - own, frame(1), own + noise, sharper, flat):
        assert likely_blur(Overlaid(pool, own), EVERYWHERE) is None
    assert likely_blur(Overlaid(own, flat), EVERYWHERE) is None
    assert likely_blur(Overlaid(own, own), ~EVERYWHERE) is None


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_what_is_smoother_but_unlike_has_none(seed):
    own = frame(seed)
    other = cv2.GaussianBlur(frame(seed + 1), (0, 0), 4)
    assert matching(own, other) is not blur_kernels()[0], "some kernel makes them more alike"
    for pool in (other, 255 - cv2.GaussianBlur(own, (0, 0), 4)):
        assert likely_blur(Overlaid(pool, own), EVERYWHERE) is None


def test_what_has_as_much_detail_has_none():
    """Though it was blurred, before noise came over it."""
    own = frame(1)
    noise = np.random.default_rng(0).normal(0, 35, own.shape).astype(np.float32)
    pool = blurred(own, blur_kernels()[1]) + noise
    assert matching(own, pool) is not blur_kernels()[0]
    assert likely_blur(Overlaid(pool, own), EVERYWHERE) is None


def test_every_kernel_keeps_the_mean_and_the_place():
    kernels = blur_kernels()
    assert len(kernels) == len({kernel.tobytes() for kernel in kernels})
    for kernel in kernels:
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_is_known_through_its_blur(seed):
    own = protected_frame(grey(seed))
    copies = [cv2.GaussianBlur(grey(seed), (0, 0), sigma) for sigma in (3, 5, 8)]
    copies += [moved(grey(seed), length, angle) for length, angle in ((12, 0), (20, 1), (30, 2.2))]
    for copy in copies:
        assert compare_through_blur(copy, own, WHOLE, (320, 240)).agreement.score > 0.8
        other = compare_through_blur(copy, protected_frame(grey(seed + 10)), WHOLE, (320, 240))
        assert other.agreement.score < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_a_blurred_copy_that_is_a_little_off_is_put_in_place(seed):
    """By a pixel and a half of 128, in both directions."""
    copy, own = cv2.GaussianBlur(grey(seed), (0, 0), 5), protected_frame(grey(seed))
    off = WHOLE.copy()
    off[:2, 2] = 1.5 / 128
    found = compare_through_blur(copy, own, off, (320, 240))
    assert found.agreement.score > 0.8
    np.testing.assert_allclose(found.homography[:2, 2], 0, atol=0.006)


def bottle(label):
    """One outline on white ground; what tells it is written on it."""
    sheet = np.full((256, 256), 250, np.uint8)
    cv2.rectangle(sheet, (90, 90), (166, 230), 60, -1)
    cv2.rectangle(sheet, (115, 40), (141, 90), 60, -1)
    cv2.putText(sheet, label, (98, 165), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 200, 2, cv2.LINE_AA)
    return sheet


def test_drawn_products_of_one_outline_are_not_one_when_they_are_blurred():
    """They have few cells with edges, and agree in nearly all of them; so a copy is not known either."""
    own = protected_frame(bottle("MILK"))
    for label in ("MILK", "WINE"):
        pool = cv2.GaussianBlur(bottle(label), (0, 0), 12)
        kernel = likely_blur(Overlaid(protected_frame(pool).astype(np.float32), own.astype(np.float32)), EVERYWHERE)
        assert compare_pixels(pool, blurred(own.astype(np.float32), kernel), WHOLE, (256, 256)).agreement.score > 0.9
        assert compare_through_blur(pool, own, WHOLE, (256, 256)).agreement.score < 0.7


@pytest.mark.parametrize("sigma", [2, 4, 6, 9])
def test_a_blurred_page_of_text_is_its_own_page_not_another(sigma):
    rng = np.random.default_rng(sigma)
    one, other = text_page(rng), text_page(rng)
    copy = cv2.GaussianBlur(one, (0, 0), sigma)
    assert compare_through_blur(copy, protected_frame(one), WHOLE, (512, 512)).agreement.score > 0.8
    assert compare_through_blur(copy, protected_frame(other), WHOLE, (512, 512)).agreement.score < 0.2
