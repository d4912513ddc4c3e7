"""Pixels as decoded to what a network takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Triple = tuple[float, float, float]


def normalise(batch: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Float32 ``[N, 3, H, W]`` in channels_last memory: (pixel / 255 - mean) / std per channel, on the batch's device.

    ``batch`` is uint8 RGB, ``[N, H, W, 3]`` or ``[N, 3, H, W]``; where both fit, NHWC is assumed. uint8 goes to
    the device and is spread there: a quarter of the bytes to copy. ValueError for another type or shape.
    """
    found: Tensor = Normalise(mean, std).to(batch.device)(batch)
    return found


class Normalise(nn.Module):
    """`normalise` for many batches: its factors are copied to the device once, which a GPU would wait for each time.

    ``image_size``: side in pixels that images of another size are scaled to, bilinear with antialias; null: none are.
    """

    def __init__(self, mean: Triple, std: Triple, image_size: int | None = None) -> None:
        super().__init__()
        self._size = image_size and (image_size, image_size)
        # One multiplication and one addition per value: x / (255 std) - mean / std.
        scale = torch.tensor([1 / (255 * s) for s in std]).view(1, 3, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, 3, 1, 1)
        self.register_buffer("_scale", scale, persistent=False)
        self.register_buffer("_shift", shift, persistent=False)

    def forward(self, batch: Tensor) -> Tensor:
        if batch.dtype != torch.uint8 or batch.ndim != 4 or 3 not in (batch.shape[1], batch.shape[3]):
            raise ValueError(f"expected uint8 [N, H, W, 3] or [N, 3, H, W], got {batch.dtype} {tuple(batch.shape)}")
        pixels = (batch.permute(0, 3, 1, 2) if batch.shape[3] == 3 else batch).float()
        if self._size and pixels.shape[-2:] != self._size:
            pixels = nn.functional.interpolate(pixels, self._size, mode="bilinear", align_corners=False, antialias=True)
        found = torch.addcmul(self._shift, pixels, self._scale)  # type: ignore[arg-type]
        return found.contiguous(memory_format=torch.channels_last)
