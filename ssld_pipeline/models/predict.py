"""A network at rest: views in, probabilities out, on whatever device there is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.build import build
from ssld_pipeline.models.preprocessing import normalise
from ssld_pipeline.models.spec import ModelSpec

# Images through the network at once. On a CPU more is slower: activations above 32 MiB are given back to the system and
# faulted in anew for every layer (MobileNetV2 at 160 px, one core: 46 img/s at 64, 71 at 32, 96 at 16).
_BATCH_SIZE = {"cpu": 16, "cuda": 256}


@dataclass
class Predictor:
    """``model`` in eval mode on ``device``; ``batch_size`` shrinks when the device's memory does not suffice."""

    spec: ModelSpec
    model: nn.Module
    device: str
    amp: bool
    batch_size: int

    def probs(self, views: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probabilities ``[N, classes]`` of ``views``, uint8 RGB ``[N, H, W, 3]``; N may be 0 and is split as needed.

        An image's probabilities depend on the other images of the batch only through floating point. UserError where
        they are not finite, which damaged weights give.
        """
        chunks = [np.zeros((0, self.spec.num_classes))]
        done = 0
        while done < len(views):
            try:
                chunks.append(self._forward(views[done : done + self.batch_size]))
            except torch.cuda.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                torch.cuda.empty_cache()
                continue
            done += len(chunks[-1])
        return np.concatenate(chunks)

    def _forward(self, views: NDArray[np.uint8]) -> NDArray[np.float64]:
        with torch.inference_mode():
            batch = normalise(torch.from_numpy(views).to(self.device), self.spec.mean, self.spec.std)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.amp):
                logits = self.model(batch)
            probs: NDArray[np.float64] = torch.softmax(logits.double(), dim=1).cpu().numpy()
        if not np.isfinite(probs).all():
            raise UserError(
                f"model {self.spec.model!r} with the weights {self.spec.weights} gives logits that are not "
                f"finite; the weights are damaged, or of another model"
            )
        return probs


def open_predictor(spec: ModelSpec, device: str = "cpu", *, amp: bool = False, num_threads: int = 1) -> Predictor:
    """The network of ``spec`` ready to predict. ``amp``: bfloat16 autocast on a GPU.

    A CPU stays in float32 whatever ``amp`` says: without bfloat16 instructions it is 6 to 20 times slower there
    (MobileNetV2 at 160 px, AMD EPYC with neither AMX nor AVX512-BF16: 7 instead of 46 img/s). channels_last doubles
    the CPU's speed (46 to 96 img/s) and suits tensor cores.
    """
    if device == "cpu":
        torch.set_num_threads(num_threads)
    model = build(spec).to(memory_format=torch.channels_last).to(device)
    return Predictor(spec, model, device, amp and device != "cpu", _BATCH_SIZE[device])
