"""Label kernel and training loop on one GPU, without Ray: images/s, shares of bare loops, and what a step is made of.

    python benchmarks/gpu.py [--network resnext101_32x16d] [--student mobilenetv3_large_100] [--write]

One call measures all, each with and without torch.compile, on JPEG files of 500 x 375 pixels drawn into a temporary
folder. Every figure is printed when it is known, and what is not known after `--minutes` is left out. Networks have
random weights, which does not change their speed. Ray, DuckDB, Delta Lake and faiss are not needed. `--device cpu` with
small networks tries the script where there is no GPU, with one compiled training; its figures then mean nothing:

    python benchmarks/gpu.py --device cpu --network test_resnet --student test_efficientnet --batch-size 32
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision
from drawn_files import NUM_CLASSES, catalog_rows, draw_files
from results import table, write_section
from train import compare_loader
from training_steps import Bare, job_of, loop_step, wait_for

from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.images import decode, evaluation_view
from ssld_pipeline.models.build import build
from ssld_pipeline.models.predict import Predictor, open_predictor
from ssld_pipeline.models.preprocessing import normalise
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.job import TrainJob
from ssld_pipeline.training.predictions import on_threads, predict_rows
from ssld_pipeline.training.recipe import Recipe

SIZE = 224
BARE_BATCHES = 8
LOADER_IMAGES = 2048
IMAGES, STEPS, BARE_STEPS = {"cuda": 16384, "cpu": 128}, {"cuda": 80, "cpu": 6}, {"cuda": 20, "cpu": 1}
RECIPE = Recipe(SIZE, 0.875)
Figures = dict[str, object]


def seconds(function: Callable[[], object], device: str, rounds: int = 3) -> float:
    """The median of some rounds after one to warm up; the device is waited for."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        function()
        wait_for(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


# Label


def label_rates(files: Sequence[Path], predictor: Predictor, threads: int) -> Figures:
    rows, size, device = catalog_rows(files), predictor.batch_size, predictor.device
    bare = BARE_BATCHES * size / seconds(lambda: bare_network(predictor, size), device)
    decoding = len(files) / seconds(lambda: decode_all(files, threads), device, 1)
    labelling = len(files) / seconds(lambda: label_all(predictor, rows, threads), device, 1)
    bottleneck = "network" if bare < decoding else "decoding"
    return {
        "batch size": size,
        "bare network, images in its memory: images/s": f"{bare:.0f}",
        f"bare decoding and resizing, {threads} threads: images/s": f"{decoding:.0f}",
        "label kernel: images/s": f"{labelling:.0f}",
        "share of the bare network": f"{labelling / bare:.3f}",
        "bottleneck, and share of it": f"{bottleneck}, {labelling / min(bare, decoding):.3f}",
        "largest difference of a probability from the CPU's float32": f"{difference(predictor, files):.1e}",
    }


def bare_network(predictor: Predictor, size: int) -> None:
    views = torch.randint(0, 256, (size, SIZE, SIZE, 3), dtype=torch.uint8, device=predictor.device)
    with torch.inference_mode(), torch.autocast(predictor.device, torch.bfloat16, enabled=predictor.amp):
        for _ in range(BARE_BATCHES):
            predictor.model(normalise(views, predictor.spec.mean, predictor.spec.std))


def decode_all(files: Sequence[Path], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(view_of, files):
            pass


def view_of(file: Path) -> np.ndarray:
    return evaluation_view(decode(file.read_bytes(), min_short_side=256).pixels, SIZE, 0.875)


def label_all(predictor: Predictor, rows: pa.Table, threads: int) -> int:
    return sum(len(p.numbers) for p in predict_rows(rows, predictor, RECIPE, on_threads(threads), []))


def difference(predictor: Predictor, files: Sequence[Path]) -> float:
    """The CPU's predictor is not opened as usual, which changes how the whole process, the loader too, gets memory."""
    views = np.stack([view_of(file) for file in files[:32]])
    torch.set_num_threads(os.cpu_count() or 1)
    on_cpu = Predictor(predictor.spec, build(predictor.spec), "cpu", amp=False, batch_size=len(views))
    state = predictor.model.state_dict()
    on_cpu.model.load_state_dict({k.removeprefix("_orig_mod."): v.cpu() for k, v in state.items()})
    return float(np.abs(predictor.probs(views) - on_cpu.probs(views)).max())


def gpu_decoding(files: Sequence[Path], device: str) -> Figures:
    """JPEG decoding by the GPU, through torchvision (nvJPEG); batches of 64."""
    data = [torch.frombuffer(bytearray(f.read_bytes()), dtype=torch.uint8) for f in files[:512]]

    def decode_batches() -> None:
        for start in range(0, len(data), 64):
            torchvision.io.decode_jpeg(
                data[start : start + 64], mode=torchvision.io.ImageReadMode.RGB, device=torch.device(device)
            )

    rate = len(data) / seconds(decode_batches, device)
    return {"GPU JPEG decoding (torchvision), without resizing: images/s": f"{rate:.0f}"}


# Training


def training_rates(job: TrainJob, execution: Execution) -> Figures:
    """The loop, the bare loop before and after it, and the parts of a bare step. Both have networks of their own."""
    torch.compiler.reset()  # a network compiled too often, in other shapes, is not compiled any more
    torch.set_num_threads(execution.num_threads)
    steps, size = BARE_STEPS[execution.device], job.settings.batch_size
    bare = Bare(job, execution)
    bare.warm_up()
    before = bare.mean(bare.step, steps).wall
    loop = loop_step([job], execution)
    step = loop.took.wall
    bare_step = (before + bare.mean(bare.step, steps).wall) / 2
    parts = {"loader, waited for": loop.waited, **bare.shares(steps)}
    total = sum(parts.values())
    return {
        "norm batches in one pass": bare.per_pass,
        "loop: images/s": f"{size / step:.0f}",
        "bare loop: images/s": f"{size / bare_step:.0f}",
        "speed of the loop / bare loop (aim: .95)": f"{bare_step / step:.3f}",
        "step of the loop: ms": f"{1000 * step:.1f}",
        "parts in turn: ms": f"{1000 * total:.1f}",
        **{
            f"{name}: ms; share of the parts; of the loop's step": (
                f"{1000 * own:.2f}; {own / total:.3f}; {own / step:.3f}"
            )
            for name, own in parts.items()
        },
    }


def arrangements(whole: int) -> dict[str, tuple[int, int]]:
    """Images per norm batch, and norm batches that go through the networks at once, of batches of ``whole`` images."""
    eighth = whole // 8
    return {
        f"norm_batch {whole}": (whole, 1),
        f"norm_batch {eighth}, one at a time": (eighth, 1),
        f"norm_batch {eighth}, eight per pass": (eighth, 8),
    }


# All


class OutOfTimeError(RuntimeError):
    pass


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """OutOfTimeError after so long: compiling takes minutes, and nobody knows how many."""

    def ring(*_: object) -> None:
        raise OutOfTimeError

    if seconds <= 0:
        ring()
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass
class Sections:
    """Columns of figures under their titles; each is printed, and with ``write`` written, when it is there."""

    head: str
    minutes: float
    write: bool
    started: float = field(default_factory=time.monotonic)
    columns: dict[str, dict[str, Figures]] = field(default_factory=dict)

    def add(self, title: str, name: str, measure: Callable[[], Figures]) -> None:
        """What one measurement cannot do costs no other one its figures."""
        own, began = self.columns.setdefault(title, {}), time.monotonic()
        try:
            with alarm(self.started + 60 * self.minutes - began):
                own[name] = measure()
        except OutOfTimeError:
            own[name] = {"not measured": "no time was left"}
        except (RuntimeError, UserError) as error:
            traceback.print_exc()
            own[name] = {"not measured": type(error).__name__}
        taken = time.monotonic() - began
        print(f"{title} {name}; {taken:.0f} s\n\n{self._table({name: own[name]})}\n", flush=True)
        if self.write:
            write_section("One GPU", "python benchmarks/gpu.py --write", self.text())

    def text(self) -> str:
        return "\n\n".join([self.head, *self._parts()])

    def _parts(self) -> Iterator[str]:
        for title, columns in self.columns.items():
            yield title
            yield self._table(columns)

    def _table(self, columns: dict[str, Figures]) -> str:
        names = dict.fromkeys(name for figures in columns.values() for name in figures)
        return table([{"figure": n, **{c: own.get(n, "") for c, own in columns.items()}} for n in names])


def measure_all(options: argparse.Namespace, scratch: str, sections: Sections) -> None:
    """What is sure to work and soon done comes first."""
    device, threads = options.device, options.threads
    files = draw_files(Path(scratch), options.images)
    rows = f"{scratch}/rows.parquet"
    pq.write_table(catalog_rows(files), rows)
    teacher = ModelSpec(f"timm:{options.network}", NUM_CLASSES, weights=options.weights)
    labelling = f"Label, {options.network}, bfloat16"
    training = f"Training, {options.student} from {options.network}, bfloat16, batches of {options.batch_size}"
    batch_size: int | None = None

    def job(norm_batch: int) -> TrainJob:
        sizes = {"batch_size": options.batch_size, "norm_batch": norm_batch, "image_size": SIZE}
        return job_of(rows, options.student, options.network, steps=STEPS[device], **sizes)

    def label(compile: bool) -> Figures:
        """Compiled with the batch size that is best without, since it is compiled anew for each."""
        nonlocal batch_size
        predictor = open_predictor(teacher, device, amp=True, compile=compile, batch_size=batch_size)
        predictor.tune(SIZE)
        batch_size = predictor.batch_size
        return label_rates(files, predictor, threads)

    def train(compile: bool, norm_batch: int, per_pass: int) -> Figures:
        execution = Execution(1, threads, device, amp=True, norm_batches_per_pass=per_pass, compile=compile)
        return training_rates(job(norm_batch), execution)

    def load() -> Figures:
        found = compare_loader(files[:LOADER_IMAGES], job(options.batch_size), threads, rounds=2)
        return {str(row["figure"]): row["value"] for row in found}

    for compile in (False, True):
        how = ", torch.compile:" if compile else ":"
        sections.add(labelling + how, "value", partial(label, compile))
        tried = list(arrangements(options.batch_size).items())
        for name, arrangement in tried[: 1 if compile and device == "cpu" else None]:
            sections.add(training + how, name, partial(train, compile, *arrangement))
        if not compile:
            sections.add(f"Loader alone, {threads} threads:", "value", load)
        if not compile and device == "cuda":
            sections.add("Decoding on the GPU:", "value", partial(gpu_decoding, files, device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnext101_32x16d", help="the teacher, a network of timm")
    parser.add_argument("--weights", help="of the teacher; without them probabilities hardly differ from one another")
    parser.add_argument("--student", default="mobilenetv3_large_100", help="a network of timm")
    parser.add_argument("--batch-size", type=int, default=256, help="of the training, a multiple of 8")
    parser.add_argument("--images", type=int, help="16384; 128 without a GPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="that decode")
    parser.add_argument("--minutes", type=float, default=8, help="after which the rest is left out")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use; --device cpu tries the script without one")
    if options.write and options.device == "cpu":
        parser.error("--write needs a GPU: figures of --device cpu mean nothing")
    options.images = options.images or IMAGES[options.device]
    if options.batch_size % 8 or not 8 <= options.batch_size <= options.images:
        parser.error(f"--batch-size {options.batch_size} must be a multiple of 8, and at most {options.images} images")
    cv2.setNumThreads(1)
    torch.backends.cudnn.benchmark = True
    device = torch.cuda.get_device_name() if options.device == "cuda" else "no GPU: a trial of the script"
    explained = (
        f"{device}, torch {torch.__version__}; {options.images} images of 500 x 375, cut to {SIZE} px. A bare loop has "
        f"its batch on the device, loads and logs nothing. Parts of a training step, but for the loader, are "
        f"timed by CUDA events in a bare loop, one after another; the real loop copies while it computes. The loader's "
        f"is the time in which the real loop had no batch, by the clock, stacking its views included."
    )
    sections = Sections(explained, options.minutes, options.write)
    with tempfile.TemporaryDirectory() as scratch:
        measure_all(options, scratch, sections)
    print(sections.text())
    if any("not measured" in figures for columns in sections.columns.values() for figures in columns.values()):
        raise SystemExit("not all was measured")


if __name__ == "__main__":
    main()
