"""A network at rest: views in, probabilities out, on whatever device there is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.allocator import keep_freed_memory
from ssld_pipeline.models.build import build
from ssld_pipeline.models.compiler import require_compiler
from ssld_pipeline.models.preprocessing import normalise
from ssld_pipeline.models.spec import ModelSpec

# Pixels through the network at once on a CPU: 16 views of 224 px. More are no faster (MobileNetV2 and ResNet-50 at 224
# px, 8 to 64), but small views come in larger batches.
_CPU_PIXELS, _CPU_BATCH, _MOST_ON_CPU = 16 * 224**2, 16, 256
_GPU_BATCHES = (64, 128, 256, 512, 1024)
_WORTHWHILE = 1.03
_IN_FLIGHT = {"cpu": 0, "cuda": 1}

Tag = TypeVar("Tag")


@dataclass
class Predictor:
    """``model`` in eval mode on ``device``; ``batch_size`` shrinks when the device's memory does not suffice.

    ``batch_size`` 0: to be chosen by ``tune``. ``fixed_shape``: batches are filled up, since a compiled network is
    compiled anew for every size.
    """

    spec: ModelSpec
    model: nn.Module
    device: str
    amp: bool
    batch_size: int
    fixed_shape: bool = False

    def tune(self, image_size: int) -> None:
        """Chooses ``batch_size`` where it is 0: on a GPU the smallest beyond which it gains less than 3 %."""
        if self.batch_size:
            return
        if self.device == "cpu":
            self.batch_size = max(_CPU_BATCH, min(_MOST_ON_CPU, _CPU_PIXELS // image_size**2))
            return
        best = 0.0
        for size in _GPU_BATCHES:
            rate = self._rate(size, image_size)
            if rate <= best * _WORTHWHILE:
                break
            self.batch_size, best = size, max(best, rate)
        self.batch_size = self.batch_size or _GPU_BATCHES[0]

    def probs(self, views: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Probabilities ``[N, classes]`` of ``views``, uint8 RGB ``[N, H, W, 3]``; N may be 0 and is split as needed.

        An image's probabilities depend on the other images of the batch only through floating point. UserError where
        they are not finite, which damaged weights give.
        """
        return next(probs for _, probs in self.stream([(None, views)]))

    def stream(self, batches: Iterable[tuple[Tag, NDArray[np.uint8]]]) -> Iterator[tuple[Tag, NDArray[np.float64]]]:
        """``probs`` of one batch after another, each with its tag. A GPU begins the next one before the last is read
        back, and has its pixels copied meanwhile."""
        launched: deque[tuple[Tag, list[Tensor]]] = deque()
        for tag, views in batches:
            launched.append((tag, self._launch(views)))
            if len(launched) > _IN_FLIGHT[self.device]:
                tag, chunks = launched.popleft()
                yield tag, self._fetch(chunks)
        for tag, chunks in launched:
            yield tag, self._fetch(chunks)

    def _launch(self, views: NDArray[np.uint8]) -> list[Tensor]:
        chunks: list[Tensor] = []
        done = 0
        while done < len(views):
            size = self.batch_size or _CPU_BATCH
            chunk = views[done : done + size]
            try:
                chunks.append(self._forward(chunk, size if self.fixed_shape else len(chunk))[: len(chunk)])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise UserError(
                        f"model {self.spec.model!r}: not even one image of {views.shape[1]} px fits into the memory of "
                        f"{self.device}; label on a larger GPU, or on CPUs with placement.use_gpu: false"
                    ) from None
                self.batch_size = size // 2
                torch.cuda.empty_cache()
                continue
            done += len(chunk)
        return chunks

    def _forward(self, views: NDArray[np.uint8], batch_size: int) -> Tensor:
        """Probabilities in float64, on the device and perhaps still to come, ``[batch_size, classes]``."""
        pixels = torch.from_numpy(views)
        if batch_size > len(views):
            pixels = torch.cat([pixels, pixels.new_zeros(batch_size - len(views), *views.shape[1:])])
        if self.device != "cpu":
            pixels = pixels.pin_memory()
        with torch.inference_mode():
            batch = normalise(pixels.to(self.device, non_blocking=True), self.spec.mean, self.spec.std)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.amp):
                logits = self.model(batch)
            return torch.softmax(logits.double(), dim=1)

    def _fetch(self, chunks: list[Tensor]) -> NDArray[np.float64]:
        found = [chunk.cpu().numpy() for chunk in chunks]
        probs = np.concatenate([np.zeros((0, self.spec.num_classes)), *found]) if len(found) != 1 else found[0]
        if not np.isfinite(probs).all():
            raise UserError(
                f"model {self.spec.model!r} with the weights {self.spec.weights} gives logits that are not "
                f"finite; the weights are damaged, or of another model"
            )
        return probs

    def _rate(self, batch_size: int, image_size: int) -> float:
        """Images per second; 0 where they do not fit into memory."""
        views = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
        try:
            self._forward(views, batch_size).cpu()  # libraries choose their kernels, a network is compiled
            started = time.perf_counter()
            last = [self._forward(views, batch_size) for _ in range(3)][-1]
            last.cpu()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return 0.0
        return 3 * batch_size / (time.perf_counter() - started)


def open_predictor(
    spec: ModelSpec,
    device: str = "cpu",
    *,
    amp: bool = False,
    compile: bool = False,
    batch_size: int | None = None,
    num_threads: int = 1,
) -> Predictor:
    """The network of ``spec`` ready to predict. ``amp``: bfloat16 autocast on a GPU. ``batch_size``: null: chosen.

    A CPU stays in float32 whatever ``amp`` says: without bfloat16 instructions it is 6 to 20 times slower there
    (MobileNetV2 at 160 px, AMD EPYC with neither AMX nor AVX512-BF16: 7 instead of 46 img/s). channels_last doubles
    the CPU's speed (46 to 96 img/s) and suits tensor cores. ``compile``: torch.compile with weights folded in, which
    takes half a minute and a C++ compiler; probabilities differ by less than 1e-5. UserError without that compiler.
    """
    if device == "cpu":
        torch.set_num_threads(num_threads)
        keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True
    model = build(spec).to(memory_format=torch.channels_last).to(device)
    if compile:
        require_compiler("placement.compile", "labels")
        model = torch.compile(model, dynamic=False, options={"freezing": True})  # type: ignore[assignment]
    return Predictor(spec, model, device, amp and device != "cpu", batch_size or 0, fixed_shape=compile)
