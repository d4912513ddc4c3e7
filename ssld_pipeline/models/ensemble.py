"""Several networks asked as one: the mean of their distributions over the run's classes.

Each member's logits are divided by its temperature, and its classes mapped to the run's where its head has others. The
arithmetic mean of the distributions is what most ensembles use; the geometric one is the mean of log-probabilities,
normalised: it minimises the mean KL divergence to the members, and what one member excludes, all exclude.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssld_pipeline.models.class_map import ClassMap
from ssld_pipeline.models.spec import Combine, Member

Triple = tuple[float, float, float]


class Ensemble(nn.Module):
    """Pixels ``[N, 3, H, W]``, normalised as the spec says, to log-probabilities ``[N, classes]`` in float32.

    They serve as logits wherever logits are expected: softmax gives the mean distribution.
    """

    def __init__(self, members: Sequence[MemberNetwork], weights: Sequence[float], combine: Combine) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.combine = combine
        self._weights = [weight / math.fsum(weights) for weight in weights]

    def forward(self, pixels: Tensor) -> Tensor:
        found: list[Tensor] = [member(pixels) for member in self.members]
        if len(found) == 1:
            return found[0]
        if self.combine == "arithmetic":
            weighted = [log_p + math.log(w) for log_p, w in zip(found, self._weights, strict=True)]
            return torch.logsumexp(torch.stack(weighted), dim=0)
        weighted = [log_p * w for log_p, w in zip(found, self._weights, strict=True)]
        return torch.log_softmax(torch.stack(weighted).sum(dim=0), dim=1)


class MemberNetwork(nn.Module):
    """Pixels normalised by the ensemble's ``mean`` and ``std`` to one member's log-probabilities, float32."""

    def __init__(self, network: nn.Module, member: Member, num_classes: int, mean: Triple, std: Triple) -> None:
        super().__init__()
        self.network = network
        self._temperature, self._image_size = member.temperature, member.image_size
        self._class_map = ClassMapping(member.class_map, num_classes) if member.class_map else None
        own = member.spec
        self._is_normalised = (own.mean, own.std) == (mean, std)
        factors = [s / t for s, t in zip(std, own.std, strict=True)]
        shifts = [(m - n) / t for m, n, t in zip(mean, own.mean, own.std, strict=True)]
        self.register_buffer("_factor", torch.tensor(factors).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.tensor(shifts).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        if self._image_size and pixels.shape[-2:] != (self._image_size, self._image_size):
            size = (self._image_size, self._image_size)
            pixels = nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        if not self._is_normalised:
            pixels = torch.addcmul(self._shift, pixels, self._factor)  # type: ignore[arg-type]
        logits = self.network(pixels).float() / self._temperature
        return torch.log_softmax(self._class_map(logits) if self._class_map else logits, dim=1)


class ClassMapping(nn.Module):
    """Logits of a teacher's classes to logits of the run's: those of one class as the logarithm of their sum."""

    def __init__(self, class_map: ClassMap, num_classes: int) -> None:
        super().__init__()
        pairs = sorted(zip(class_map.run_classes, class_map.teacher_classes, strict=True))
        self._num_classes, self._is_one_to_one = num_classes, len(pairs) == num_classes
        self.register_buffer("_teacher_classes", torch.tensor([t for _, t in pairs]), persistent=False)
        self.register_buffer("_run_classes", torch.tensor([r for r, _ in pairs]), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        mapped = logits.index_select(1, self._teacher_classes)  # type: ignore[arg-type]
        if self._is_one_to_one:
            return mapped
        # The greatest logit of each class is taken out first: far below the row's greatest, exp alone would give 0.
        classes: Tensor = self._run_classes.expand(len(mapped), -1)  # type: ignore[operator]
        greatest = mapped.new_full((len(mapped), self._num_classes), -math.inf)
        greatest = greatest.scatter_reduce(1, classes, mapped, "amax")
        sums = torch.zeros_like(greatest).scatter_add(1, classes, (mapped - greatest.gather(1, classes)).exp())
        return sums.log() + greatest
