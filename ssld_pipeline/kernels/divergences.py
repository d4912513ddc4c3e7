"""Losses between a student's and a teacher's logits, by name.

Every divergence takes two tensors of logits ``[batch, classes]`` and a temperature T, and returns the scalar mean over
the batch in nats, times T^2 so that gradients keep their size as T grows (Hinton et al., arXiv:1503.02531, section 2);
with ``reduction="none"`` the value of each row, ``[batch]``.
All are computed from log-softmax in float32, or float64 where the logits are float64: never from probabilities, whose
logarithm is -inf where float underflows. The teacher receives no gradient. 0 log 0 is 0.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor

Reduction = Literal["mean", "none"]


class Divergence(Protocol):
    def __call__(
        self, student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: Reduction = "mean"
    ) -> Tensor: ...


def symmetric_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """1/2 [KL(t||s) + KL(s||t)], half of Jeffreys' divergence; symmetric in value, zero iff equal, unbounded.

    PaddleClas calls it JSDiv, and it gave SSLD's published numbers (``DMLLoss``, arXiv:2103.05959). It is not the
    Jensen-Shannon divergence: that is `js_divergence`. The official code adds 1e-12 to probabilities within the
    logarithm, which clips log ratios at 27.6; here they are exact.
    """
    log_s, log_t = log_probabilities(student_logits, teacher_logits, temperature)
    return _reduced((log_t.exp() - log_s.exp()) * (log_t - log_s), temperature, reduction) / 2


def js_divergence(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """The Jensen-Shannon divergence 1/2 KL(t||m) + 1/2 KL(s||m), m = (t + s)/2; at most ln 2 (times T^2).

    The textbook's (Lin 1991), not the one PaddleClas calls JS: that is `symmetric_kl`.
    """
    log_s, log_t = log_probabilities(student_logits, teacher_logits, temperature)
    log_m = torch.logaddexp(log_s, log_t) - math.log(2)
    return _reduced(log_t.exp() * (log_t - log_m) + log_s.exp() * (log_s - log_m), temperature, reduction) / 2


def kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """KL(t||s): what distillation usually minimises (Hinton et al., arXiv:1503.02531)."""
    log_s, log_t = log_probabilities(student_logits, teacher_logits, temperature)
    return _reduced(log_t.exp() * (log_t - log_s), temperature, reduction)


def reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """KL(s||t): a student that cannot follow everywhere keeps to the teacher's peaks (Gu et al., arXiv:2306.08543)."""
    log_s, log_t = log_probabilities(student_logits, teacher_logits, temperature)
    return _reduced(log_s.exp() * (log_s - log_t), temperature, reduction)


def soft_ce(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """The cross entropy -sum t log s: `kl` plus the teacher's entropy, so the same gradient and another value."""
    log_s, log_t = log_probabilities(student_logits, teacher_logits, temperature)
    return _reduced(-log_t.exp() * log_s, temperature, reduction)


def logits_mse(student_logits: Tensor, teacher_logits: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Squared difference of row-centred logits, summed over the C classes, over 2 C.

    The limit of ``kl`` as T grows (Hinton et al., arXiv:1503.02531, section 2.1), which float32 cannot reach: at T =
    1000 its log-softmax has lost .8 % of the value. Mean over the batch, or ``[batch]`` without reduction.
    """
    _require_pairs(student_logits, teacher_logits)
    student, teacher = _precise(student_logits), _precise(teacher_logits.detach())
    difference = student - teacher
    centred = difference - difference.mean(dim=1, keepdim=True)
    per_row = centred.square().sum(dim=1) / (2 * centred.shape[1])
    return per_row.mean() if reduction == "mean" else per_row


_DIVERGENCES: dict[str, Divergence] = {
    "js": js_divergence,
    "symmetric_kl": symmetric_kl,
    "soft_ce": soft_ce,
    "kl": kl,
    "reverse_kl": reverse_kl,
}


def objective(name: str) -> Divergence:
    """The divergence that a term of an objective names; ValueError for a name that is none."""
    if name not in _DIVERGENCES:
        raise ValueError(f"no divergence is called {name!r}; known: {', '.join(_DIVERGENCES)}")
    return _DIVERGENCES[name]


def probabilities(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of the student and of the teacher, the latter without gradient: for losses that take no logarithm of them."""
    _require_pairs(student_logits, teacher_logits)
    student, teacher = (_precise(logits) / temperature for logits in (student_logits, teacher_logits.detach()))
    return torch.softmax(student, dim=1), torch.softmax(teacher, dim=1)


def log_probabilities(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of the student and of the teacher, the latter without gradient."""
    _require_pairs(student_logits, teacher_logits)
    return _log_softmax(student_logits, temperature), _log_softmax(teacher_logits.detach(), temperature)


def _require_pairs(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            f"expected two tensors [batch, classes], got student {tuple(student_logits.shape)} and teacher "
            f"{tuple(teacher_logits.shape)}"
        )


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(_precise(logits) / temperature, dim=1)


def _precise(logits: Tensor) -> Tensor:
    """An explicit cast, since autocast leaves half-precision inputs of arithmetic as they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _reduced(per_class: Tensor, temperature: float, reduction: Reduction) -> Tensor:
    per_row = per_class.sum(dim=1) * temperature**2
    return per_row.mean() if reduction == "mean" else per_row
