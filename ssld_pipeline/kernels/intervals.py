"""What a share observed in a few trials says about the share in all."""

from __future__ import annotations

import math

_Z = 1.959963984540054


def wilson(share: float, num: int) -> tuple[float, float]:
    """The 95 % score interval (Wilson, 1927) of a share observed in ``num`` trials; (0, 1) where there were none."""
    if num <= 0:
        return 0.0, 1.0
    centre = share + _Z * _Z / (2 * num)
    half = _Z * math.sqrt(share * (1 - share) / num + _Z * _Z / (4 * num * num))
    scale = 1 + _Z * _Z / num
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def chance_of_at_most(found: int, num: int, share: float) -> float:
    """The probability that no more than ``found`` of ``num`` trials succeed, each with probability ``share``."""
    return math.fsum(math.comb(num, k) * share**k * (1 - share) ** (num - k) for k in range(found + 1))
