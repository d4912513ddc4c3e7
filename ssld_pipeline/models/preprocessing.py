"""Pixels as decoded to what a network takes."""

from __future__ import annotations

import torch
from torch import Tensor


def normalise(batch: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Float32 ``[N, 3, H, W]`` in channels_last memory: (pixel / 255 - mean) / std per channel, on the batch's device.

    ``batch`` is uint8 RGB, ``[N, H, W, 3]`` or ``[N, 3, H, W]``; where both fit, NHWC is assumed. uint8 goes to
    the device and is spread there: a quarter of the bytes to copy. ValueError for another type or shape.
    """
    if batch.dtype != torch.uint8 or batch.ndim != 4 or 3 not in (batch.shape[1], batch.shape[3]):
        raise ValueError(f"expected uint8 [N, H, W, 3] or [N, 3, H, W], got {batch.dtype} {tuple(batch.shape)}")
    pixels = batch.permute(0, 3, 1, 2) if batch.shape[3] == 3 else batch
    # One multiplication and one addition per value: x / (255 std) - mean / std.
    scale = torch.tensor([1 / (255 * s) for s in std], device=batch.device).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=batch.device).view(1, 3, 1, 1)
    return torch.addcmul(shift, pixels.float(), scale).contiguous(memory_format=torch.channels_last)
