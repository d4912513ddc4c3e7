from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from ssld_pipeline.kernels.divergences import symmetric_kl
from ssld_pipeline.kernels.soft_label import ROUNDING_STEP, dense, from_probs, most_probable, round_mantissa
from ssld_pipeline.training.stored_labels import SoftLabel, logits_of


def distributions(num_images: int, num_classes: int, scale: float = 4.0, seed: int = 0) -> np.ndarray:
    return softmax(np.random.default_rng(seed).normal(size=(num_images, num_classes)) * scale, axis=1)


def test_keeps_the_most_probable_classes():
    probs = distributions(50, 30)
    labels = from_probs(probs, 7)
    for row, ids, kept in zip(probs, labels.class_ids, labels.probs, strict=True):
        expected = sorted(range(30), key=lambda c: (-row[c], c))[:7]
        assert ids.tolist() == expected
        np.testing.assert_allclose(kept, row[expected], rtol=ROUNDING_STEP)
        assert (kept <= row[expected] * (1 + 1e-7)).all()
    assert labels.top1_class.tolist() == probs.argmax(1).tolist()
    np.testing.assert_allclose(labels.top1_prob, probs.max(1), rtol=1e-7)


def test_types_and_shapes():
    labels = from_probs(distributions(3, 10).astype(np.float32), 4)
    assert labels.class_ids.dtype == labels.top1_class.dtype == np.int32
    assert labels.probs.dtype == labels.tail_prob.dtype == labels.top1_prob.dtype == labels.entropy.dtype == np.float32
    assert labels.class_ids.shape == labels.probs.shape == (3, 4)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 45),
    st.floats(0, 60),
    st.sampled_from([4, 6, 8, 11, 24]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 999),
)
def test_kept_and_exact_tail_make_one_but_for_the_rounding(num_classes, num_kept, scale, bits, dtype, seed):
    """0 <= 1 - sum - tail <= 2^(1 - bits) sum, and the float32 of the tail."""
    probs = distributions(4, num_classes, scale, seed).astype(dtype)
    labels = from_probs(probs, num_kept, bits)
    total, tail = labels.probs.sum(axis=1, dtype=np.float64), labels.tail_prob.astype(np.float64)
    missing = 1 - total - tail
    assert (missing >= -1e-14).all()
    assert (missing <= 2.0 ** (1 - bits) * total + 2.0**-23 * tail + 1e-14).all()
    assert (np.diff(labels.probs, axis=1) <= 0).all()
    exact = np.sort(probs.astype(np.float64), axis=1)[:, : max(0, num_classes - num_kept)].sum(axis=1)
    np.testing.assert_allclose(tail, exact, rtol=1e-6, atol=1e-37)


def test_a_tail_below_the_rounding_is_kept_and_with_every_class_there_is_none():
    probs = np.array([[1 - 3e-6, 1e-6, 1e-6, 1e-6]])
    assert from_probs(probs, 1).tail_prob[0] == pytest.approx(3e-6, rel=1e-6)
    assert from_probs(probs, 4).tail_prob.tolist() == [0]


def test_symmetric_kl_of_a_sure_teacher_has_its_gradient():
    """Median over 400 images of the gradient's error beside all 1,000 classes: the tail of rounded probabilities, 1
    minus their sum, is ten times the real one here and gives 18 %."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (400, 1000))
    logits[:, 0] += 16
    teacher, student = softmax(logits, axis=1), softmax(random.normal(0, 1, (400, 1000)) + logits / 2, axis=1)
    assert np.median(teacher.max(axis=1)) > 0.999
    labels = from_probs(teacher, 20)
    stored = SoftLabel(labels.class_ids, labels.probs, labels.tail_prob)
    dense_gradient = gradient(torch.from_numpy(teacher).log(), student)
    for target in (logits_of(stored, 1000).double(), torch.from_numpy(dense(*stored, 1000)).log()):
        error = (gradient(target, student) - dense_gradient).norm(dim=1) / dense_gradient.norm(dim=1)
        assert error.median() < 0.06


def gradient(teacher_logits: torch.Tensor, student: np.ndarray) -> torch.Tensor:
    logits = torch.from_numpy(student).log().requires_grad_()
    found: torch.Tensor = torch.autograd.grad(symmetric_kl(logits, teacher_logits) * len(student), logits)[0]
    return found


def test_entropy_is_of_the_full_distribution():
    probs = distributions(20, 50)
    np.testing.assert_allclose(from_probs(probs, 2).entropy, entropy(probs, axis=1), rtol=2**-10)
    sure = from_probs(np.eye(3), 2)
    assert sure.entropy.tolist() == [0, 0, 0]
    assert not np.signbit(sure.entropy).any()


def test_ties_go_to_the_smaller_class():
    labels = from_probs(np.array([[0.1, 0.3, 0.3, 0.3], [0.25] * 4]), 3)
    assert labels.class_ids.tolist() == [[1, 2, 3], [0, 1, 2]]
    assert labels.top1_class.tolist() == [1, 0]


def test_a_row_does_not_depend_on_the_others():
    probs = distributions(30, 12)
    whole, order = from_probs(probs, 5), np.random.default_rng(1).permutation(30)
    shuffled = from_probs(probs[order], 5)
    for name in ("class_ids", "probs", "tail_prob", "top1_class", "top1_prob", "entropy"):
        assert (getattr(shuffled, name) == getattr(whole, name)[order]).all()


def test_no_images():
    labels = from_probs(np.zeros((0, 9)), 4)
    assert labels.class_ids.shape == labels.probs.shape == (0, 4)
    assert len(labels.top1_prob) == len(labels.entropy) == len(labels.tail_prob) == 0


@pytest.mark.parametrize(
    "bad", [[[3.0, -2.0]], [[0.2, 0.2]], [[np.nan, 1.0]], [[np.inf, 0.0]], [[1.2, -0.2]], [0.5, 0.5], [[]]]
)
def test_what_is_no_distribution_is_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        from_probs(np.array(bad), 1)


@settings(max_examples=100, deadline=None)
@given(st.floats(2.0**-100, 1, width=32), st.integers(2, 23))
def test_rounding_keeps_the_significant_bits(value, bits):
    exact = np.float32(value)
    rounded = round_mantissa(np.array([exact]), bits)[0]
    mantissa, _ = np.frexp(np.float64(rounded))
    assert float(mantissa * 2**bits).is_integer()
    assert 0 <= exact - rounded < exact * 2.0 ** (1 - bits)
    assert round_mantissa(np.array([rounded]), bits)[0] == rounded


def test_rounding_fits_float16_where_float16_reaches():
    rounded = round_mantissa(distributions(10, 10).astype(np.float32).ravel())
    normal = rounded[rounded > 2**-14]
    assert (normal.astype(np.float16).astype(np.float32) == normal).all()


def test_dense_restores_the_distribution():
    probs = distributions(10, 40, scale=2)
    labels = from_probs(probs, 6)
    restored = dense(labels.class_ids, labels.probs, labels.tail_prob, 40)
    np.testing.assert_allclose(restored.sum(axis=1), 1, rtol=1e-12)
    for row, exact, ids in zip(restored, probs, labels.class_ids, strict=True):
        np.testing.assert_allclose(row[ids], exact[ids], rtol=ROUNDING_STEP)
        rest = np.delete(row, ids)
        np.testing.assert_allclose(rest, np.delete(exact, ids).mean(), rtol=1e-6)
        assert np.ptp(rest) == 0


def test_dense_with_every_class_kept():
    probs = distributions(5, 8)
    labels = from_probs(probs, 20)
    restored = dense(labels.class_ids, labels.probs, labels.tail_prob, 8)
    np.testing.assert_allclose(restored.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(restored, probs, rtol=2 * ROUNDING_STEP)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 6), st.integers(1, 60), st.integers(1, 70), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_partial_sort_is_a_sort(num_rows, num_classes, count, num_values, seed):
    """Few values make ties, within what is kept and across its end."""
    probs = np.random.default_rng(seed).integers(0, num_values, (num_rows, num_classes)) / 7
    expected = np.argsort(-probs, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(most_probable(probs, count), expected)
