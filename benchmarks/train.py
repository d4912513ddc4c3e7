"""The training loop against bare loops on the same machine in the same run: ratios, not speeds.

    python benchmarks/train.py [--device cuda] [--threads 1] [--loader-threads 1] [--write]

Draws JPEG files into a temporary folder. Networks have random weights, which does not change their speed. What is
compared takes turns, so that whatever else the machine does falls on all of it; medians of the rounds are given.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import pyarrow.parquet as pq
import torch
from gpu import catalog_rows, draw_files
from results import table, write_section
from torch import Tensor, nn

from ssld_pipeline.config.training import TrainingConfig
from ssld_pipeline.kernels.divergences import symmetric_kl
from ssld_pipeline.kernels.images import decode
from ssld_pipeline.models.allocator import keep_freed_memory
from ssld_pipeline.models.build import build
from ssld_pipeline.models.preprocessing import Normalise
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.augmentation import cut, draw_crop, random_generator
from ssld_pipeline.training.data import TrainImages
from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.fit import fit_together
from ssld_pipeline.training.job import OnlineTeacher, TrainJob
from ssld_pipeline.training.views import least_short_side

NUM_CLASSES = 1000
STEPS, WARM_UP = {"cpu": 30, "cuda": 120}, 20  # the first 20 steps write a row each, for which a GPU is waited for
BARE_STEPS, BARE_WARM_UP = {"cpu": 5, "cuda": 50}, 4
ROUNDS = 3
Row = dict[str, object]


def job_of(rows: str, student: str, teacher: str, device: str, **settings: Any) -> TrainJob:
    own = TrainingConfig.model_validate(
        {"steps": STEPS[device], "validations": 0, "objective": ["symmetric_kl"], **settings}
    )
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


def step_s(jobs: Sequence[TrainJob], execution: Execution) -> Seconds:
    """Of a step of the loop, after some to warm up."""
    seen: dict[int, Seconds] = {}
    last = jobs[0].settings.steps or 0
    first = min(WARM_UP, last - 4)

    def watch(row: dict[str, Any]) -> None:
        seen[row["step"]] = now()

    with tempfile.TemporaryDirectory() as scratch:
        folders = [f"{scratch}/{number}" for number in range(len(jobs))]
        fit_together(jobs, folders, fingerprints=["f"] * len(jobs), execution=execution, report=watch)
    return between(seen[first], seen[last], last - first)


class Bare:
    """Teacher and student as anyone would write them, on a batch that is in the memory of the device."""

    def __init__(self, job: TrainJob, execution: Execution) -> None:
        assert isinstance(job.teacher, OnlineTeacher)
        self.device, self.amp = execution.device, execution.amp and execution.device != "cpu"
        specs = job.student, job.teacher.spec
        self.student, self.teacher = (_placed(build(spec), self.device).train() for spec in specs)
        self.optimizer = torch.optim.SGD(self.student.parameters(), 0.01, momentum=0.9, weight_decay=1e-5)
        self.normalise = Normalise(job.student.mean, job.student.std).to(self.device)
        self.norm_batch, size = job.settings.images_per_norm, job.settings.image_size
        shape = (job.settings.batch_size, size, size, 3)
        self.views = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)

    def ask(self) -> list[Tensor]:
        with torch.no_grad(), torch.autocast(self.device, torch.bfloat16, enabled=self.amp):
            return [self.teacher(self.normalise(part)) for part in self.views.split(self.norm_batch)]

    def learn(self, told: Sequence[Tensor]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for part, logits in zip(self.views.split(self.norm_batch), told, strict=True):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.amp):
                found = self.student(self.normalise(part))
            (symmetric_kl(found, logits) / len(told)).backward()
        self.optimizer.step()

    def seconds(self) -> tuple[Seconds, Seconds]:
        """Of the teacher's forward pass and of the student's whole step."""
        told = self.ask()
        steps = BARE_STEPS[self.device]
        for _ in range(BARE_WARM_UP):
            self.learn(self.ask())
        return self._mean(self.ask, steps), self._mean(lambda: self.learn(told), steps)

    def _mean(self, function: Callable[[], object], steps: int) -> Seconds:
        self._wait()
        started = now()
        for _ in range(steps):
            function()
        self._wait()
        return between(started, now(), steps)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def _placed(module: nn.Module, device: str) -> nn.Module:
    placed: nn.Module = module.to(memory_format=torch.channels_last)
    return placed.to(device)


def compare_loop(job: TrainJob, execution: Execution) -> list[Row]:
    """The loop, one job and several together, against the bare step."""
    bare = Bare(job, execution)
    loops: dict[int, list[Seconds]] = {number: [] for number in (1, 2, 4)}
    bares: list[tuple[Seconds, Seconds]] = []
    for _ in range(ROUNDS):
        bares.append(bare.seconds())
        for number, own in loops.items():
            own.append(step_s([replace(job, stage=f"train{k}") for k in range(number)], execution))
        bares.append(bare.seconds())
    teacher, student = (median(own) for own in zip(*bares, strict=True))
    found = {number: median(own) for number, own in loops.items()}
    return [
        _pair("teacher's forward pass T, bare: s", lambda of: f"{of(teacher):.3f}"),
        _pair("student's step S, bare: s", lambda of: f"{of(student):.3f}"),
        _pair("step of the loop: s", lambda of: f"{of(found[1]):.3f}"),
        _pair(
            "speed of the loop / bare loop (aim: .95)",
            lambda of: f"{(of(teacher) + of(student)) / of(found[1]):.3f}",
        ),
        *(_together(number, found, teacher, student) for number in (2, 4)),
    ]


def _together(number: int, found: dict[int, Seconds], teacher: Seconds, student: Seconds) -> Row:
    def shown(of: Callable[[Seconds], float]) -> str:
        cost = of(found[number]) / (number * of(found[1]))
        law = (of(teacher) + number * of(student)) / (number * (of(teacher) + of(student)))
        return f"{cost:.3f}, {law:.3f}, {cost / law:.3f}"

    return _pair(f"{number} together / {number} alone, (T + kS) / k(T + S), their ratio (aim: 1.05)", shown)


def _pair(name: str, shown: Callable[[Callable[[Seconds], float]], str]) -> Row:
    return {
        "figure": name,
        "by the clock": shown(lambda own: own.wall),
        "of the computing thread": shown(lambda own: own.cpu),
    }


def compare_loader(files: Sequence[Path], job: TrainJob, threads: int) -> list[Row]:
    """Against threads that decode and cut the same views and keep nothing."""
    settings, rows = job.settings, catalog_rows(files)
    steps = len(files) // settings.batch_size

    def loader() -> None:
        for _ in TrainImages(rows, settings).batches(0, steps, threads):
            pass

    def one(number: int) -> None:
        area, size = settings.min_crop_area, settings.image_size
        pixels = decode(files[number].read_bytes(), min_short_side=least_short_side(size, area)).pixels
        height, width = pixels.shape[:2]
        cut(pixels, draw_crop(width, height, area, random_generator(0, 0, number)), size)

    def bare() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(one, range(steps * settings.batch_size)):
                pass

    times = turns({"loader": loader, "bare": bare}, 2 * ROUNDS)
    return [
        figure("views/s, bare", f"{steps * settings.batch_size / times['bare']:.0f}"),
        figure("speed of the loader / bare decoding and cutting (aim: .90)", f"{times['bare'] / times['loader']:.3f}"),
    ]


def compare_norm_batches(rows: str, students: Sequence[str], teacher: str, execution: Execution) -> list[Row]:
    """norm_batch 32 at batch_size 256: one at a time, and several in one pass."""
    found = []
    for student in students:
        recipe = {"batch_size": 256, "norm_batch": 32, "image_size": 64, "steps": 5}
        job = job_of(rows, student, teacher, execution.device, **recipe)
        times: dict[int, list[Seconds]] = {count: [] for count in (1, 2, 8)}
        for _ in range(ROUNDS):
            for count, own in times.items():
                own.append(step_s([job], replace(execution, norm_batches_per_pass=count)))
        medians = {count: median(own) for count, own in times.items()}
        for name, of in (("the clock", 0), ("the thread", 1)):
            shares = {f"{count} in a pass": f"{value[of] / medians[1][of]:.3f}" for count, value in medians.items()}
            found.append({"student": student, "by": name, "one at a time: s": f"{medians[1][of]:.2f}", **shares})
    return found


def turns(functions: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after one round to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(own[1:]) for name, own in taken.items()}


def figure(name: str, value: object) -> Row:
    return {"figure": name, "value": value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="mobilenetv3_small_050")
    parser.add_argument("--teacher", default="resnet18")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loader-threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    execution = Execution(options.threads, options.loader_threads, options.device, amp=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = draw_files(Path(scratch), options.images)
        rows = f"{scratch}/rows.parquet"
        pq.write_table(catalog_rows(files), rows)
        sizes = {"batch_size": options.batch_size, "norm_batch": 32, "image_size": options.image_size}
        job = job_of(rows, options.student, options.teacher, options.device, **sizes)
        loop = compare_loop(job, execution)
        loader = compare_loader(files, job, options.loader_threads)
        norms = compare_norm_batches(rows, (options.student, "resnet18"), "test_resnet", execution)
    body = "\n\n".join(
        [
            f"{options.threads} threads compute, {options.loader_threads} load. {options.student} learns from "
            f"{options.teacher} on {options.device}, batch_size {options.batch_size}, norm_batch 32, "
            f"{options.image_size} px:",
            table(loop),
            "Loader, on JPEG files of 500 x 375 px:",
            table(loader),
            "Norm batches of 32 in batches of 256, 64 px, teacher test_resnet; share of the time of one at a time:",
            table(norms),
        ]
    )
    print(body)
    if options.write:
        write_section("Training", "python benchmarks/train.py --write", body)


if __name__ == "__main__":
    main()
