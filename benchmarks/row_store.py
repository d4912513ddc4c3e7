"""What rows and stored labels cost in memory where several training processes of a node map them.

    python benchmarks/row_store.py --scratch DIR [--gigabytes 1] [--processes 3] [--write]

Generates a manifest and parts of soft_labels, and has N processes open them at once as a training does: `TrainImages`
over `read_rows`, with stored labels. The first of them builds both stores. When all have read every byte, each measures
its private memory (the sum of Private_* in /proc/self/smaps_rollup, which a page that others map too is not part of)
against what it had after its imports.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import table, write_section

from ssld_pipeline.config.training import TrainingConfig
from ssld_pipeline.training.data import TrainImages, read_rows
from ssld_pipeline.training.job import StoredTeacher
from ssld_pipeline.training.recipe import Recipe
from ssld_pipeline.training.views import REPLAY_COLUMNS

NUM_VIEWS, NUM_KEPT, NUM_CLASSES = 10, 20, 1000
IMAGES_PER_PART = 20_000
BYTES_PER_IMAGE = 150 + NUM_VIEWS * (8 * NUM_KEPT + 37)


@dataclass(frozen=True)
class Tables:
    manifest: tuple[str, ...]
    soft_labels: tuple[str, ...]
    num_images: int


@dataclass(frozen=True)
class Opened:
    """What one process saw. ``opened_s``: until its images were ready; ``private_bytes``: that it has more since."""

    opened_s: float
    private_bytes: int
    checksum: float


@dataclass(frozen=True)
class Measured:
    """``store_bytes``: on disk, all files."""

    store_bytes: int
    processes: list[Opened]

    @property
    def largest_share(self) -> float:
        """Of the store's size, the largest private memory of a process."""
        return max(found.private_bytes for found in self.processes) / self.store_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the figures to RESULTS.md")
    arguments = parser.parse_args()
    tables = generate(arguments.scratch / "tables", int(arguments.gigabytes * 1e9))
    cold = measure(tables, arguments.scratch / "cache", arguments.processes)
    warm = measure(tables, arguments.scratch / "cache", arguments.processes)
    text = body(tables, cold, warm)
    print(text)
    if arguments.write:
        command = f"python benchmarks/row_store.py --scratch DIR --gigabytes {arguments.gigabytes:g}"
        write_section("Rows and stored labels of a node", command, text)


def generate(folder: Path, store_bytes: int) -> Tables:
    """Parts whose stores have about ``store_bytes``; images in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    num_images = store_bytes // BYTES_PER_IMAGE
    order = np.random.default_rng(0).permutation(num_images)
    manifest, soft_labels = [], []
    for part, first in enumerate(range(0, num_images, IMAGES_PER_PART)):
        images = order[first : first + IMAGES_PER_PART]
        manifest.append(str(folder / f"manifest-{part:03d}.parquet"))
        soft_labels.append(str(folder / f"soft_labels-{part:03d}.parquet"))
        pq.write_table(_manifest(images), manifest[-1])
        pq.write_table(_soft_labels(images, part), soft_labels[-1])
    return Tables(tuple(manifest), tuple(soft_labels), num_images)


def _ids(images: np.ndarray) -> list[str]:
    return [f"pool/pool-{image // 1000:05d}.tar/n{image % 1000:03d}/{image:09d}.jpg" for image in images]


def _manifest(images: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "image_id": _ids(images),
            "role": ["pool"] * len(images),
            "uri": [f"s3://bucket/images/pool/pool-{image // 1000:05d}.tar" for image in images],
            "offset": pa.array(images * 512, pa.int64()),
            "size_bytes": pa.array(images % 100_000, pa.int64()),
            "class_id": pa.array([None if image % 2 else int(image % NUM_CLASSES) for image in images], pa.int32()),
        }
    )


def _soft_labels(images: np.ndarray, seed: int) -> pa.Table:
    random, num_rows = np.random.default_rng(seed + 1), len(images) * NUM_VIEWS
    probs = np.sort(random.random((num_rows, NUM_KEPT), np.float32), axis=1)[:, ::-1] / NUM_KEPT
    starts = np.arange(num_rows + 1, dtype=np.int32) * NUM_KEPT
    columns: dict[str, Any] = {
        "image_id": [image_id for image_id in _ids(images) for _ in range(NUM_VIEWS)],
        "view": pa.array(np.tile(np.arange(1, NUM_VIEWS + 1), len(images)), pa.int32()),
        "class_ids": pa.ListArray.from_arrays(
            starts, random.integers(0, NUM_CLASSES, num_rows * NUM_KEPT).astype(np.int32)
        ),
        "probs": pa.ListArray.from_arrays(starts, np.ascontiguousarray(probs).ravel()),
        "tail_prob": (1 - probs.sum(axis=1)).astype(np.float32),
        **{name: random.random(num_rows, np.float32) for name in REPLAY_COLUMNS},
    }
    columns["flipped"] = columns["flipped"] > 0.5
    return pa.table(columns)


def measure(tables: Tables, cache: Path, num_processes: int) -> Measured:
    """``num_processes`` open the stores in ``cache`` at once."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(num_processes), context.Queue()
    processes = [
        context.Process(target=_open, args=(rank, num_processes, tables, str(cache), barrier, found))
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    opened = [found.get(timeout=1800) for _ in processes]
    for process in processes:
        process.join()
    if len({one.checksum for one in opened}) != 1:
        raise SystemExit("the processes read different values")
    store = cache / "row-store"
    return Measured(sum(p.stat().st_size for p in store.rglob("*") if p.suffix in (".arrow", ".npy")), opened)


def _open(rank: int, num_processes: int, tables: Tables, cache: str, barrier: Barrier, found: Queue[Opened]) -> None:
    settings = TrainingConfig(batch_size=num_processes, image_size=32, teacher="stored", teacher_batch_norm="eval")
    teacher = StoredTeacher(tables.soft_labels, NUM_VIEWS, NUM_KEPT, Recipe(32, 0.875))
    pa.chunked_array([[0]]).to_numpy()  # loads pandas, 25 MB, which every training does
    barrier.wait()
    before, started = private_bytes(), time.monotonic()
    rows = read_rows(tables.manifest, ("pool", "labeled"), False, cache=cache)
    images = TrainImages(rows, settings, rank, num_processes, teacher, cache)
    opened_s = time.monotonic() - started
    checksum = float(sum(_sums(images)))
    barrier.wait()  # all have every page mapped
    after = private_bytes()
    barrier.wait()
    found.put(Opened(opened_s, after - before, checksum))


def _sums(images: TrainImages) -> Iterator[float]:
    """Of every array, so that each page was read."""
    for column in images.rows.columns:
        for chunk in column.chunks:
            yield from (float(np.frombuffer(buffer, np.uint8).sum()) for buffer in chunk.buffers() if buffer)
    labels = images._labels
    assert labels is not None
    for values in (labels.class_ids, labels.probs, labels.tail_probs, labels.replays, labels.present):
        yield float(values.sum(dtype=np.float64))


def private_bytes() -> int:
    """Private memory of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


def body(tables: Tables, cold: Measured, warm: Measured) -> str:
    rows = []
    for name, measured in (("built by the first", cold), ("there already", warm)):
        private = ", ".join(f"{one.private_bytes / 1e6:.1f}" for one in measured.processes)
        rows.append(
            {
                "store": name,
                "size, MB": f"{measured.store_bytes / 1e6:.0f}",
                "private memory added, MB per process": private,
                "largest share of the size": f"{measured.largest_share:.2%}",
                "seconds to open": f"{max(one.opened_s for one in measured.processes):.1f}",
            }
        )
    return f"""{len(cold.processes)} processes at once; {tables.num_images:,} images with {NUM_VIEWS} stored views of
{NUM_KEPT} classes. Every process has read every byte before it is measured.

{table(rows)}"""


if __name__ == "__main__":
    main()
