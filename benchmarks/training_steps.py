"""A step of the training loop, and the same step bare, on a batch that lies on the device: how long each takes."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from drawn_files import NUM_CLASSES
from torch import Tensor, nn

from ssld_pipeline.config.training import TrainingConfig
from ssld_pipeline.kernels.divergences import symmetric_kl
from ssld_pipeline.models.build import build
from ssld_pipeline.models.compiler import compiled
from ssld_pipeline.models.preprocessing import Normalise
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.fit import fit_together
from ssld_pipeline.training.job import OnlineTeacher, TrainJob
from ssld_pipeline.training.norm_batches import batch_norms, draws_at_random, split_norm_batches, track_running_stats

WARM_UP = 20  # the loop's first 20 steps write a row each, for which a GPU is waited for
BARE_WARM_UP = 4
COPY, TEACHER, STUDENT, OPTIMISER = (
    "copy to the device",
    "teacher, forward",
    "student, forward and backward",
    "optimiser",
)


def job_of(rows: str, student: str, teacher: str, **settings: Any) -> TrainJob:
    own = TrainingConfig.model_validate({"validations": 0, "objective": ["symmetric_kl"], **settings})
    return TrainJob(
        stage="train",
        section="train",
        student=ModelSpec(f"timm:{student}", NUM_CLASSES),
        settings=own,
        objective=own.objective,
        tables=(rows,),
        roles=("pool",),
        teacher=OnlineTeacher(ModelSpec(f"timm:{teacher}", NUM_CLASSES), own.image_size),
    )


class Seconds(NamedTuple):
    """By the clock, and of a processor in the thread that asked: all of the computing where it has one thread."""

    wall: float
    cpu: float


def now() -> Seconds:
    return Seconds(time.perf_counter(), time.thread_time())


def between(first: Seconds, last: Seconds, steps: int) -> Seconds:
    return Seconds((last.wall - first.wall) / steps, (last.cpu - first.cpu) / steps)


def median(found: Sequence[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(values) for values in zip(*found, strict=True)))


class LoopStep(NamedTuple):
    """``waited``: seconds by the clock in which the loop's thread had no batch."""

    took: Seconds
    waited: float


def loop_step(jobs: Sequence[TrainJob], execution: Execution) -> LoopStep:
    """A step of the loop, after some to warm up. Its rows are written when all that was computed is there."""
    seen: dict[int, Seconds] = {}
    waits: dict[int, float] = {}
    last = jobs[0].settings.steps or 0
    first = min(WARM_UP, last - 4)

    def watch(row: dict[str, Any]) -> None:
        steps = row["step"] - max(seen, default=0)  # 0: of another job
        waits[row["step"]] = waits.get(row["step"], 0.0) + row["data_wait"] * steps / row["images_per_s"]
        seen[row["step"]] = now()

    with tempfile.TemporaryDirectory() as scratch:
        folders = [f"{scratch}/{number}" for number in range(len(jobs))]
        fit_together(jobs, folders, fingerprints=["f"] * len(jobs), execution=execution, report=watch)
    waited = jobs[0].settings.batch_size * sum(own for step, own in waits.items() if step > first)
    return LoopStep(between(seen[first], seen[last], last - first), waited / (last - first))


class Marks:
    """Moments on the clock of the device: CUDA events, which nobody waits for, or the processor's time."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._made: list[tuple[str, Any]] = []

    def __call__(self, name: str) -> None:
        """What was done since the mark before is called ``name``; the first mark is the beginning."""
        if self._device == "cpu":
            moment: Any = time.perf_counter()
        else:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self._made.append((name, moment))

    def seconds(self) -> dict[str, float]:
        wait_for(self._device)
        sums: dict[str, float] = defaultdict(float)
        for (_, before), (name, after) in itertools.pairwise(self._made):
            sums[name] += after - before if self._device == "cpu" else before.elapsed_time(after) / 1000
        return dict(sums)


class Bare:
    """Teacher and student as anyone would write them, on a batch that is in the memory of the device.

    Their batch norm is the loop's: statistics of each norm batch, also where several go through at once.
    """

    def __init__(self, job: TrainJob, execution: Execution) -> None:
        assert isinstance(job.teacher, OnlineTeacher)
        self.device, self.amp = execution.device, execution.amp and execution.device != "cpu"
        student, teacher = (_placed(build(spec), self.device).train() for spec in (job.student, job.teacher.spec))
        track_running_stats(batch_norms(teacher.requires_grad_(False)), False)
        norm_batch, size = job.settings.images_per_norm, job.settings.image_size
        probe = torch.zeros(2, 3, size, size, device=self.device)
        self.per_pass = 1 if draws_at_random(student, probe) else execution.norm_batches_per_pass
        if self.per_pass > 1:
            split_norm_batches(student, norm_batch)
            split_norm_batches(teacher, norm_batch)
        self.optimizer = torch.optim.SGD(student.parameters(), 0.01, momentum=0.9, weight_decay=1e-5)
        self.student, self.teacher = (compiled(n) if execution.compile else n for n in (student, teacher))
        self.normalise = Normalise(job.student.mean, job.student.std).to(self.device)
        shape = (job.settings.batch_size, size, size, 3)
        self.on_host = torch.randint(0, 256, shape, dtype=torch.uint8)
        if self.device == "cuda":
            self.on_host = self.on_host.pin_memory()
        self.views = self.on_host.to(self.device, copy=True)
        self.parts = self.views.split(norm_batch * self.per_pass)

    def ask(self, part: Tensor) -> Tensor:
        with torch.no_grad(), self._autocast():
            logits: Tensor = self.teacher(self.normalise(part))
        return logits

    def learn(self, part: Tensor, told: Tensor) -> None:
        with self._autocast():
            found = self.student(self.normalise(part))
        (symmetric_kl(found, told) / len(self.parts)).backward()

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, mark: Callable[[str], None] = lambda name: None) -> None:
        for part in self.parts:
            told = self.ask(part)
            mark(TEACHER)
            self.learn(part, told)
            mark(STUDENT)
        self.update()
        mark(OPTIMISER)

    def warm_up(self) -> None:
        for _ in range(BARE_WARM_UP):
            self.step()

    def halves(self, steps: int) -> tuple[Seconds, Seconds]:
        """Of the teacher's forward pass and of the student's whole step."""
        told = [self.ask(part) for part in self.parts]

        def ask() -> None:
            for part in self.parts:
                self.ask(part)

        def learn() -> None:
            for part, logits in zip(self.parts, told, strict=True):
                self.learn(part, logits)
            self.update()

        self.warm_up()
        return self.mean(ask, steps), self.mean(learn, steps)

    def shares(self, steps: int) -> dict[str, float]:
        """Seconds of a step's parts one after another, the copy of a batch from pinned memory among them."""
        marks = Marks(self.device)
        marks("")
        for _ in range(steps):
            self.views.copy_(self.on_host, non_blocking=True)
            marks(COPY)
            self.step(marks)
        return {name: taken / steps for name, taken in marks.seconds().items()}

    def mean(self, function: Callable[[], object], steps: int) -> Seconds:
        wait_for(self.device)
        started = now()
        for _ in range(steps):
            function()
        wait_for(self.device)
        return between(started, now(), steps)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.amp)


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _placed(module: nn.Module, device: str) -> nn.Module:
    placed: nn.Module = module.to(memory_format=torch.channels_last)
    return placed.to(device)
