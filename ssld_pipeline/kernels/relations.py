"""Relations between the predictions of a student and of its teacher: how well they correlate, whatever their scale.

Huang et al., arXiv:2205.10536 (DIST). Both take logits ``[N, classes]`` and a temperature T, correlate probabilities
(Pearson), and return 1 - correlation, times T^2: from 0 to 2 T^2. Float64 where logits are float64, else float32. The
teacher receives no gradient.

As in the official code 1e-8 is added to the product of the norms that a correlation is divided by. So values without
variance correlate with nothing: their loss is T^2, and nothing is NaN. Where only the student's have none, the gradient
is that of the official code, up to 1e8 times what the teacher's deviate from their mean: a student with a classifier of
zeros, to which all classes are equally probable, cannot begin with it.
"""

from __future__ import annotations

from torch import Tensor
from torch.linalg import vector_norm

from ssld_pipeline.kernels.divergences import probabilities

_ADDED_TO_NORMS = 1e-8


def inter_class(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Of each image, over the classes: ``[N]``."""
    student, teacher = probabilities(student_logits, teacher_logits, temperature)
    return (1 - _correlations(student, teacher)) * temperature**2


def intra_class(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Of each class, over the images, as the mean of classes: ``[]``. T^2, without gradient, for one image."""
    student, teacher = probabilities(student_logits, teacher_logits, temperature)
    return (1 - _correlations(student.T, teacher.T).mean()) * temperature**2


def _correlations(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, of each row."""
    a, b = (values - values.mean(dim=1, keepdim=True) for values in (a, b))
    norms: Tensor = vector_norm(a, dim=1) * vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (norms + _ADDED_TO_NORMS)
