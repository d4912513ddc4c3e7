"""A teacher's distribution as it is stored: the most probable classes, what they weigh, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT_BITS = 8
ENTROPY_BITS = 11
ROUNDING_STEP = 2.0 ** (1 - SIGNIFICANT_BITS)  # of a probability, relative


@dataclass(frozen=True)
class SoftLabels:
    """N soft labels of k classes each, by falling probability, equal probabilities by rising class id.

    ``probs [N, k]`` are rounded towards zero to 8 significant bits. ``tail_prob [N]`` is the mass of the other classes
    before any rounding, in float32, also rounded towards zero; 0 where every class is kept. Hence
    0 <= 1 - sum(probs) - tail_prob <= 2^-7 sum(probs) + 2^-23 tail_prob, and `scaled` gives readers probabilities that
    sum to 1. ``top1_prob``, which ranks images, is not rounded, and ``entropy`` (nats) to 11 bits; both are of the
    full distribution.
    """

    class_ids: NDArray[np.int32]
    probs: NDArray[np.float32]
    tail_prob: NDArray[np.float32]
    top1_class: NDArray[np.int32]
    top1_prob: NDArray[np.float32]
    entropy: NDArray[np.float32]


def from_probs(probs: NDArray[np.floating], num_kept: int, bits: int = SIGNIFICANT_BITS) -> SoftLabels:
    """The ``num_kept`` most probable classes (or all there are) of each row of ``probs [N, classes]``, to ``bits``.

    Rows must be finite, not negative and sum to 1 within 1e-3: ValueError otherwise, as it means a missing softmax or
    a network that diverged. A softmax in float32 sums to 1 within 1e-6; what is kept is of the row divided by its sum.
    Deterministic, and independent of the other rows.
    """
    exact = np.asarray(probs, dtype=np.float64)
    _check(exact)
    order = most_probable(exact, num_kept)
    rest = exact / exact.sum(axis=1, keepdims=True)
    kept = round_mantissa(_towards_zero(np.take_along_axis(rest, order, axis=1)), bits)
    np.put_along_axis(rest, order, 0.0, axis=1)  # 1 minus what is kept would lose a small tail's digits
    top1 = order[:, 0] if len(order) else np.zeros(0, dtype=np.int64)
    return SoftLabels(
        class_ids=order.astype(np.int32),
        probs=kept,
        tail_prob=_towards_zero(rest.sum(axis=1)),
        top1_class=top1.astype(np.int32),
        top1_prob=exact.max(axis=1, initial=0.0).astype(np.float32),
        entropy=round_mantissa(_entropy(exact).astype(np.float32), ENTROPY_BITS),
    )


def most_probable(probs: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The ``count`` most probable classes ``[N, count]``, or all there are, of ``probs [N, classes]``.

    In the order of `SoftLabels`. A partial sort: 20 of 1,000 classes take 20 us a row, sorting all takes 70.
    """
    if 4 * count > probs.shape[1]:
        return np.argsort(-probs, axis=1, kind="stable")[:, :count]
    least = -np.partition(-probs, count - 1, axis=1)[:, count - 1 : count]
    is_kept = probs >= least
    ids = np.empty((len(probs), count), dtype=np.int64)
    tied = is_kept.sum(axis=1) > count  # with a class that is left out
    ids[~tied] = np.nonzero(is_kept[~tied])[1].reshape(-1, count)
    ids[tied] = np.argsort(-probs[tied], axis=1, kind="stable")[:, :count]
    order = np.argsort(-np.take_along_axis(probs, ids, axis=1), axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1)


def round_mantissa(values: NDArray[np.float32], bits: int = SIGNIFICANT_BITS) -> NDArray[np.float32]:
    """``values`` with all but ``bits`` significant bits cleared, so that what they hold compresses as float16 would.

    Rounded towards zero, so that probabilities never sum to more than before; the relative error is below 2^(1 - bits),
    0.8 % for 8 bits. Beside keeping 20 of 1,000 classes that is little: the JS loss of a MobileNetV2 that sees half the
    resolution, 0.35 nats, is off by 7.8e-3 with float32, 11 and 8 bits, 7.9e-3 with 6; its gradient by 4.8 to 4.9 %. A
    view costs 106, 74, 66, 61 bytes (benchmarks/RESULTS.md, "Size and error of stored soft labels"): what 8 bits save
    beside 11 buys four more classes, which count for more.
    """
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    mask = np.uint32(0xFFFFFFFF << (24 - bits) & 0xFFFFFFFF)
    return (raw & mask).view(np.float32)


def scaled(probs: NDArray[np.floating], tail_prob: NDArray[np.floating]) -> NDArray[np.float64]:
    """``probs [N, k]`` times one factor a row, so that with ``tail_prob [N]`` they sum to 1.

    The rounding took up to 0.8 % of them, which no class of the tail may get: with a teacher that is sure, that is ten
    times the tail, and symmetric_kl takes its logarithm. Of labels made before the tail was exact, the factor is 1.
    """
    kept: NDArray[np.float64] = probs.astype(np.float64)
    kept *= ((1.0 - tail_prob.astype(np.float64)) / kept.sum(axis=1))[:, None]
    return kept


def largest_difference(
    class_ids: Sequence[int], probs: Sequence[float], other_ids: Sequence[int], other_probs: Sequence[float]
) -> float:
    """The largest difference of a probability between two soft labels of one view, beyond the step of the rounding.

    The shorter label decides how many classes count. A class that one of them does not list has, there, at most the
    least probability that is listed, so that two classes which are equally probable may change places at the end.
    """
    num_kept = min(len(class_ids), len(other_ids))
    one = dict(zip(class_ids[:num_kept], probs[:num_kept], strict=True))
    other = dict(zip(other_ids[:num_kept], other_probs[:num_kept], strict=True))
    found = 0.0
    for mine, theirs in ((one, other), (other, one)):
        bound = min(theirs.values(), default=0.0)
        for class_id, prob in mine.items():
            its = theirs.get(class_id, min(prob, bound))
            found = max(found, abs(prob - its) - ROUNDING_STEP * max(prob, its))
    return found


def dense(
    class_ids: NDArray[np.int32], probs: NDArray[np.float32], tail_prob: NDArray[np.float32], num_classes: int
) -> NDArray[np.float64]:
    """Distributions ``[N, num_classes]``: the stored probabilities `scaled`, the tail spread evenly over the others.

    Without the tail a student learns labels that are too sure (Sparse Logit Sampling, arXiv:2503.16870). Where every
    class was kept there is no tail; of labels made before it was exact, it is the rounding's and is passed over.
    """
    num_rest = num_classes - class_ids.shape[1]
    tail = tail_prob.astype(np.float64) if num_rest else np.zeros(len(tail_prob))
    rows = np.repeat(tail[:, None] / max(num_rest, 1), num_classes, axis=1)
    np.put_along_axis(rows, class_ids.astype(np.int64), scaled(probs, tail), axis=1)
    return rows


def _towards_zero(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The nearest float32 that is not larger, of values that are not negative."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(0)), nearest)


def _check(probs: NDArray[np.float64]) -> None:
    if probs.ndim != 2 or probs.shape[1] == 0:
        raise ValueError(f"expected probabilities [N, classes], got shape {probs.shape}")
    if not np.isfinite(probs).all() or (probs < 0).any() or (np.abs(probs.sum(axis=1) - 1) > 1e-3).any():
        raise ValueError("expected rows of finite probabilities that sum to 1; was softmax applied once?")


def _entropy(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    # Clipped, since a one-hot row of a softmax that rounds to more than 1 would give a negative zero or less.
    entropy: NDArray[np.float64] = np.maximum(-(probs * logs).sum(axis=1), 0.0)
    return entropy
