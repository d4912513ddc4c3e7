"""The divergence KL(t||s) in two parts, of the class of an image and of all others (Zhao et al., arXiv:2203.08679)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssld_pipeline.kernels.divergences import log_probabilities


def decoupled_kl(
    student_logits: Tensor, teacher_logits: Tensor, class_ids: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """KL of (class of the image, any other), and KL of the distributions over the others: each ``[N]``, times T^2.

    The first, plus the second times the teacher's probability of the others, is `kl`. ``class_ids``: int64 ``[N]``, of
    two classes at least. Float64 where logits are float64, else float32. The teacher receives no gradient.
    """
    log_s, log_t = log_probabilities(student_logits, teacher_logits, temperature)
    is_class = torch.zeros_like(log_t, dtype=torch.bool).scatter(1, class_ids[:, None], True)
    own_s, own_t = (log.gather(1, class_ids[:, None]) for log in (log_s, log_t))
    others_s, others_t = (
        log.masked_fill(is_class, -torch.inf).logsumexp(dim=1, keepdim=True) for log in (log_s, log_t)
    )
    of_class = own_t.exp() * (own_t - own_s) + others_t.exp() * (others_t - others_s)
    among = torch.where(is_class, 0, (log_t - others_t).exp())
    apart = torch.where(is_class, 0, (log_t - others_t) - (log_s - others_s))
    return of_class.squeeze(1) * temperature**2, (among * apart).sum(dim=1) * temperature**2
