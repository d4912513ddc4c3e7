"""A teacher that stays as it is: its logits of what the students see."""

from __future__ import annotations

import torch
from torch import Tensor

from ssld_pipeline.models.build import build
from ssld_pipeline.models.compiler import compiled
from ssld_pipeline.models.preprocessing import Normalise
from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.job import OnlineTeacher
from ssld_pipeline.training.network import on_device
from ssld_pipeline.training.norm_batches import batch_norms, split_norm_batches, track_running_stats


class FrozenTeacher:
    """Dropout and drop path are off. Batch norm uses the statistics of each ``norm_batch`` images where the job says
    so, and keeps no running ones, which nobody reads."""

    def __init__(self, teacher: OnlineTeacher, norm_batch: int, device: str, execution: Execution) -> None:
        spec = teacher.spec
        self._device, self._amp = device, execution.amp and device != "cpu"
        self._normalise = Normalise(spec.mean, spec.std, teacher.image_size).to(device)
        module = on_device(build(spec), device).requires_grad_(False).eval()
        norms = batch_norms(module) if teacher.batch_norm == "train" else []
        self.has_batch_norm = bool(norms)
        if norms and execution.norm_batches_per_pass > 1:
            split_norm_batches(module, norm_batch)
        for norm in norms:
            norm.train()
        track_running_stats(norms, False)
        self._forward = compiled(module) if execution.compile else module

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """``[N, classes]`` of uint8 ``pixels`` [N,S,S,3]."""
        with torch.autocast(self._device, torch.bfloat16, enabled=self._amp):
            logits: Tensor = self._forward(self._normalise(pixels))
        return logits
