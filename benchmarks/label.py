"""What the label stage costs beside the bare network and bare decoding, and which of the two bounds this machine.

    python benchmarks/label.py --images FOLDER [--threads 2] [--write]

FOLDER holds JPEG photographs. The stage and the two bare loops take turns on the same images with the same number of
threads, so that whatever else the machine does falls on all three; medians of the rounds are given. Networks have
random weights, which does not change their speed. The stage's time includes writing the Parquet part.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import timm
import torch
import torchvision
from PIL import Image as PillowImage
from results import table, write_section

from ssld_pipeline.cli import ENVIRONMENT
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import SOFT_LABELS
from ssld_pipeline.kernels.images import decode, encode_jpeg, evaluation_view
from ssld_pipeline.models.predict import Predictor, open_predictor
from ssld_pipeline.models.preprocessing import normalise
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.stages import label
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.store.fingerprints import Fingerprint
from ssld_pipeline.store.tables import TableStore

NUM_CLASSES = 1000
ROUNDS = 4
BATCH = 16
LARGE_SIDE = 2400
TINY_PX = 32
REPEATS = 12
Row = dict[str, object]
Result = TypeVar("Result")


def in_fresh_process(function: Callable[[], Result]) -> Result:
    """How malloc behaves and what was compiled cannot be undone; with the environment that `ssld` sets."""
    os.environ |= ENVIRONMENT
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function).result()


# The stage beside the bare loops


def compare(files: Sequence[Path], network: str, image_size: int, threads: int) -> list[Row]:
    """Images per second of the bare network, of bare decoding, and of the stage."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch, "weights.safetensors")
        save_weights(timm.create_model(network, num_classes=NUM_CLASSES), weights)
        config = settings(network, weights, image_size, threads)
        work = label.STAGE.open(Setup(config, tuple(map(str, range(NUM_CLASSES))), {}, threads))
        rows, data = catalog_rows(files), [file.read_bytes() for file in files]
        views = np.stack([view_of(image, image_size) for image in data])
        # The predictor's own network and batch size, without what is around them.
        predictor = open_predictor(ModelSpec(f"timm:{network}", NUM_CLASSES), num_threads=threads)
        predictor.tune(image_size)
        bare_net, bare_decode = partial(run_network, predictor, views), partial(run_decoding, data, image_size, threads)
        contenders = {
            "bare network": bare_net,
            "bare decoding": bare_decode,
            "label stage": partial(run_stage, work, rows, Path(scratch)),
        }
        seconds = {name: [] for name in contenders}
        for number in range(ROUNDS + 1):
            for name, contender in contenders.items():
                took = timed(contender)
                seconds[name] += [took] if number else []
    rates = {name: len(files) / statistics.median(values) for name, values in seconds.items()}
    bound = min(("bare network", "bare decoding"), key=rates.__getitem__)
    ratios = [b / s for b, s in zip(seconds[bound], seconds["label stage"], strict=True)]
    return [
        *({"figure": f"{name}: images/s", "value": f"{rate:.1f}"} for name, rate in rates.items()),
        {"figure": "bounded by", "value": bound.removeprefix("bare ")},
        {
            "figure": "stage / its bound",
            "value": f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
        },
        {
            "figure": "stage / both on the same cores",
            "value": f"{rates['label stage'] * sum(1 / rates[n] for n in list(rates)[:2]):.3f}",
        },
    ]


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def settings(network: str, weights: Path, image_size: int, threads: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "workspace": "unused",
            "inputs": {
                role: {"uri": f"unused/{role}", "format": "folder"} for role in ("labeled", "protected", "pool")
            },
            "teacher": {"model": f"timm:{network}", "weights": str(weights), "image_size": image_size},
            "student": {"model": "timm:none"},
            "placement": {"loader_threads": threads},
        }
    )


def catalog_rows(files: Sequence[Path]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "image_id": f"pool/{n}/{f.name}",
                "role": "pool",
                "uri": str(f),
                "offset": 0,
                "size_bytes": f.stat().st_size,
            }
            for n, f in enumerate(files)
        ]
    )


def run_stage(work: Callable[..., label.PartResult], rows: pa.Table, workspace: Path) -> None:
    result = work(rows)
    assert result.rows.num_rows == rows.num_rows and not result.rejects
    store = TableStore(str(workspace), SOFT_LABELS)
    store.write(result.rows, {"part": "pool/x#0"}, Fingerprint.of({}, {}), {}, {})


def run_network(predictor: Predictor, views: npt.NDArray[np.uint8]) -> None:
    size, spec = predictor.batch_size, predictor.spec
    with torch.inference_mode():
        for start in range(0, len(views), size):
            batch = normalise(torch.from_numpy(views[start : start + size]), spec.mean, spec.std)
            torch.softmax(predictor.model(batch), dim=1)


def run_decoding(data: Sequence[bytes], image_size: int, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(partial(view_of, image_size=image_size), data):
            pass


def view_of(data: bytes, image_size: int) -> npt.NDArray[np.uint8]:
    return evaluation_view(decode(data, min_short_side=round(image_size / 0.875)).pixels, image_size, 0.875)


def enlarged(files: Sequence[Path], folder: Path) -> list[Path]:
    """The photographs as a camera would have stored them: their longer side LARGE_SIDE pixels."""
    made = []
    for number, file in enumerate(files):
        pixels = decode(file.read_bytes()).pixels
        scale = LARGE_SIDE / max(pixels.shape)
        large = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        made.append(folder / f"{number}.jpg")
        made[-1].write_bytes(encode_jpeg(large))
    return made


# Decoders


def decoders() -> dict[str, Callable[[bytes], object]]:
    """JPEG bytes to RGB at full size; what is installed."""
    found: dict[str, Callable[[bytes], object]] = {
        "OpenCV (libjpeg-turbo)": lambda d: cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR_RGB),
        "torchvision.io": lambda d: torchvision.io.decode_jpeg(
            torch.frombuffer(bytearray(d), dtype=torch.uint8), mode=torchvision.io.ImageReadMode.RGB
        ),
        "Pillow": lambda d: np.asarray(PillowImage.open(io.BytesIO(d)).convert("RGB")),
        "this pipeline, whole": lambda d: decode(d),
        "this pipeline, as small as the teacher needs": lambda d: decode(d, min_short_side=256),
    }
    try:
        import simplejpeg
    except ImportError:
        return found
    return found | {"simplejpeg (turbojpeg)": simplejpeg.decode_jpeg}


def decode_with(decoder: Callable[[bytes], object], images: Sequence[bytes]) -> None:
    for data in images:
        decoder(data)


def compare_decoders(small: Sequence[bytes], large: Sequence[bytes]) -> list[Row]:
    """ms per image on one thread, the least of three passes in turn."""
    found = {name: {"decoder": name} for name in decoders()}
    for title, images in (("as they come", small), (f"longer side {LARGE_SIDE} px", large)):
        best = dict.fromkeys(found, float("inf"))
        for _ in range(3):
            for name, decoder in decoders().items():
                best[name] = min(best[name], timed(partial(decode_with, decoder, images)) / len(images))
        for name, seconds in best.items():
            found[name][f"{title}: ms"] = f"{1000 * seconds:.2f}"
    return list(found.values())


# What makes a network faster on a CPU


def network_rate(network: str, threads: int, variant: str) -> float:
    """Images per second at 224 pixels, the best of the rounds."""
    torch.set_num_threads(threads)
    model = timm.create_model(network, num_classes=NUM_CLASSES).eval()
    batch = torch.rand(BATCH, 3, 224, 224)
    if variant != "as built":
        model, batch = model.to(memory_format=torch.channels_last), batch.contiguous(memory_format=torch.channels_last)
    if "kept memory" in variant or "compile" in variant:
        from ssld_pipeline.models.allocator import keep_freed_memory

        keep_freed_memory()
    if "compile" in variant:
        model = torch.compile(model, dynamic=False, options={"freezing": True})
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in variant):
        model(batch)
        return BATCH / min(timed(lambda: model(batch)) for _ in range(ROUNDS))


VARIANTS = (
    "as built",
    "channels_last",
    "channels_last, bfloat16",
    "channels_last, kept memory (what the stage does)",
    "channels_last, kept memory, torch.compile (placement.compile)",
)


def compare_variants(networks: Sequence[str], threads: int) -> list[Row]:
    rows = []
    for variant in VARIANTS:
        rates = {n: in_fresh_process(partial(network_rate, n, threads, variant)) for n in networks}
        rows.append({"variant": variant, **{f"{n}: images/s": f"{rate:.1f}" for n, rate in rates.items()}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--network", default="resnet50", help="a teacher that bounds a CPU")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    options = parser.parse_args()
    files = sorted(options.images.rglob("*.jpg"))[::7][:320]
    with tempfile.TemporaryDirectory() as scratch:
        large = enlarged(files[:120], Path(scratch))
        heavy = in_fresh_process(partial(compare, files[:64], options.network, 224, options.threads))
        light = in_fresh_process(partial(compare, REPEATS * large, "test_resnet", TINY_PX, options.threads))
        decoding = compare_decoders([f.read_bytes() for f in files], [f.read_bytes() for f in large[:60]])
    variants = compare_variants(("mobilenetv2_100", options.network), options.threads)
    body = "\n\n".join(
        [
            f"{options.threads} threads. {options.network} at 224 px, photographs as they come:",
            table(heavy),
            f"A tiny network (test_resnet) at {TINY_PX} px, photographs of {LARGE_SIDE} px:",
            table(light),
            "JPEG decoders, one thread:",
            table(decoding),
            f"Networks at 224 px, batches of {BATCH}, each in a process of its own:",
            table(variants),
        ]
    )
    print(body)
    if options.write:
        write_section("Labelling", "python benchmarks/label.py --images FOLDER --write", body)


if __name__ == "__main__":
    main()
