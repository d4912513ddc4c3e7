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

import cv2
import pyarrow.parquet as pq
import torch
from drawn_files import catalog_rows, draw_files
from results import table, write_section
from training_steps import Bare, Seconds, job_of, loop_step, median

from ssld_pipeline.kernels.images import decode
from ssld_pipeline.models.allocator import keep_freed_memory
from ssld_pipeline.training.augmentation import cut, draw_crop, random_generator
from ssld_pipeline.training.data import TrainImages
from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.job import TrainJob
from ssld_pipeline.training.views import least_short_side

STEPS, BARE_STEPS = {"cpu": 30, "cuda": 120}, {"cpu": 5, "cuda": 50}
ROUNDS = 3
Row = dict[str, object]


def compare_loop(job: TrainJob, execution: Execution) -> list[Row]:
    """The loop, one job and several together, against the bare step."""
    bare, steps = Bare(job, execution), BARE_STEPS[execution.device]
    loops: dict[int, list[Seconds]] = {number: [] for number in (1, 2, 4)}
    bares: list[tuple[Seconds, Seconds]] = []
    for _ in range(ROUNDS):
        bares.append(bare.halves(steps))
        for number, own in loops.items():
            own.append(loop_step([replace(job, stage=f"train{k}") for k in range(number)], execution).took)
        bares.append(bare.halves(steps))
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


def compare_loader(files: Sequence[Path], job: TrainJob, threads: int, rounds: int = 2 * ROUNDS) -> list[Row]:
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

    times = turns({"loader": loader, "bare": bare}, rounds)
    return [
        figure("views/s, loader", f"{steps * settings.batch_size / times['loader']:.0f}"),
        figure("views/s, bare", f"{steps * settings.batch_size / times['bare']:.0f}"),
        figure("speed of the loader / bare decoding and cutting (aim: .90)", f"{times['bare'] / times['loader']:.3f}"),
    ]


def compare_norm_batches(rows: str, students: Sequence[str], teacher: str, execution: Execution) -> list[Row]:
    """norm_batch 32 at batch_size 256: one at a time, and several in one pass."""
    found = []
    for student in students:
        recipe = {"batch_size": 256, "norm_batch": 32, "image_size": 64, "steps": 5}
        job = job_of(rows, student, teacher, **recipe)
        times: dict[int, list[Seconds]] = {count: [] for count in (1, 2, 8)}
        for _ in range(ROUNDS):
            for count, own in times.items():
                own.append(loop_step([job], replace(execution, norm_batches_per_pass=count)).took)
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
        job = job_of(rows, options.student, options.teacher, steps=STEPS[options.device], **sizes)
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
