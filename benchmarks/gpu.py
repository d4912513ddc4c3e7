"""The label kernel on one GPU, without Ray: images/s, the share of the bare network, the bottleneck.

    python benchmarks/gpu.py [--network resnext101_32x16d] [--write]

For the training loop: benchmarks/train.py --device cuda.

Draws JPEG files of 500 x 375 pixels into a temporary folder. `--device cpu` with a small
network tries the script where there is no GPU; its figures then mean nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
import torchvision
from results import table, write_section

from ssld_pipeline.kernels.images import decode, encode_jpeg, evaluation_view
from ssld_pipeline.models.predict import Predictor, open_predictor
from ssld_pipeline.models.preprocessing import normalise
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.predictions import on_threads, predict_rows
from ssld_pipeline.training.recipe import Recipe

NUM_CLASSES = 1000
SIZE = 224
BARE_BATCHES = 8
RECIPE = Recipe(SIZE, 0.875)
Row = dict[str, object]


def draw_files(folder: Path, count: int) -> list[Path]:
    """Textured pictures whose JPEG files are as large as photographs' (some 100 kB)."""

    def draw(number: int) -> Path:
        rng = np.random.default_rng(number)
        layers = [
            cv2.resize(rng.normal(0, 30, (n, n, 3)).astype(np.float32), (500, 375), interpolation=cv2.INTER_CUBIC)
            for n in (6, 24, 96, 200)
        ]
        path = folder / f"{number:05}.jpg"
        path.write_bytes(encode_jpeg(np.clip(sum(layers) + 128, 0, 255).astype(np.uint8)))
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(draw, range(count)))


def catalog_rows(files: Sequence[Path]) -> pa.Table:
    rows = [
        {
            "image_id": f"pool/{f.name}",
            "role": "pool",
            "uri": str(f),
            "offset": 0,
            "size_bytes": f.stat().st_size,
            "class_id": k % NUM_CLASSES,
        }
        for k, f in enumerate(files)
    ]
    return pa.Table.from_pylist(rows)


def seconds(function: Callable[[], object], device: str, rounds: int = 3) -> float:
    """The median of some rounds after one to warm up; the device is waited for."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


# Label


def label_rates(files: Sequence[Path], teacher: ModelSpec, device: str, compile: bool, threads: int) -> list[Row]:
    predictor = open_predictor(teacher, device, amp=True, compile=compile)
    predictor.tune(SIZE)
    rows, size = catalog_rows(files), predictor.batch_size
    bare = BARE_BATCHES * size / seconds(lambda: bare_network(predictor, size), device)
    decoding = len(files) / seconds(lambda: decode_all(files, threads), device, 1)
    labelling = len(files) / seconds(lambda: label_all(predictor, rows, threads), device, 1)
    bound = min(bare, decoding)
    return [
        figure("batch size chosen", size),
        figure("bare network, images in its memory: images/s", f"{bare:.0f}"),
        figure(f"bare decoding and resizing, {threads} threads: images/s", f"{decoding:.0f}"),
        figure("label kernel: images/s", f"{labelling:.0f}"),
        figure("share of the bare network", f"{labelling / bare:.3f}"),
        figure(
            "bottleneck, and share of it", f"{'network' if bare < decoding else 'decoding'}, {labelling / bound:.3f}"
        ),
        figure("largest difference of a probability from the CPU's float32", f"{difference(predictor, files):.1e}"),
    ]


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
    views = np.stack([view_of(file) for file in files[:32]])
    state = predictor.model.state_dict()
    on_cpu = open_predictor(predictor.spec, num_threads=os.cpu_count() or 1)
    on_cpu.model.load_state_dict({k.removeprefix("_orig_mod."): v.cpu() for k, v in state.items()})
    return float(np.abs(predictor.probs(views) - on_cpu.probs(views)).max())


def gpu_decoding(files: Sequence[Path], device: str) -> list[Row]:
    """JPEG decoding by the GPU, through torchvision (nvJPEG); batches of 64."""
    if device == "cpu":
        return []
    data = [torch.frombuffer(bytearray(f.read_bytes()), dtype=torch.uint8) for f in files[:512]]

    def decode_batches() -> None:
        for start in range(0, len(data), 64):
            torchvision.io.decode_jpeg(
                data[start : start + 64], mode=torchvision.io.ImageReadMode.RGB, device=torch.device(device)
            )

    return [
        figure(
            "GPU JPEG decoding (torchvision), without resizing: images/s",
            f"{len(data) / seconds(decode_batches, device):.0f}",
        )
    ]


def figure(name: str, value: object) -> Row:
    return {"figure": name, "value": value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnext101_32x16d", help="the teacher, a network of timm")
    parser.add_argument("--weights", help="of the teacher; without them probabilities hardly differ from one another")
    parser.add_argument("--images", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use; --device cpu tries the script without one")
    cv2.setNumThreads(1)
    sections = []
    with tempfile.TemporaryDirectory() as scratch:
        files = draw_files(Path(scratch), options.images)
        for compile in (False, True):
            teacher = ModelSpec(f"timm:{options.network}", NUM_CLASSES, weights=options.weights)
            rows = label_rates(files, teacher, options.device, compile, options.threads)
            sections += [f"Label, {options.network}, bfloat16{', torch.compile' if compile else ''}:", table(rows)]
        if rows := gpu_decoding(files, options.device):
            sections.append(table(rows))
    device = torch.cuda.get_device_name() if options.device == "cuda" else "no GPU: a trial of the script"
    body = "\n\n".join([f"{device}; {options.images} images of 500 x 375.", *sections])
    print(body)
    if options.write:
        write_section("One GPU", "python benchmarks/gpu.py --write", body)


if __name__ == "__main__":
    main()
