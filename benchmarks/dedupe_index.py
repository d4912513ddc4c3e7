"""The index of protected images at full size: time to build it, memory, time per query, copies found.

    python benchmarks/dedupe_index.py --photos PHOTOS --scratch FOLDER --num-images 50000

The first --num-real photographs are protected. The others are the stock that more protected images are drawn from,
each of 400 descriptors a + t (b - a), clipped at 0 and brought to SIFT's norm of 512: a any descriptor of the stock, b
another of the same of 256 clusters, t uniform in [-.5, .5]. Against photographs that are not in the stock, such
descriptors compete as other photographs' do: the nearest of 300,000 lies at a median distance of 228, of 300,000 real
ones at 215, and as many entries are 0 (.21). Uniform noise would be no competition at all.

Copies of the real images are looked up in an index of these alone and in the whole; in both, the share is printed whose
original is a candidate; and of other photographs, how many have votes that ask for a second look. Figures of memory are
of two processes that opened the same index and looked up every copy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from ssld_pipeline.config.dedupe import DedupeConfig
from ssld_pipeline.copies import search
from ssld_pipeline.copies.candidates import nearest
from ssld_pipeline.copies.candidates.perceptual_hash import dihedral_looks, look, propose
from ssld_pipeline.copies.features.mirror import canonical_descriptors
from ssld_pipeline.copies.features.sift import KeyPoints, detect_keypoints, resize_grey
from ssld_pipeline.copies.index.build import portray
from ssld_pipeline.copies.index.mapped_vectors import write_vectors
from ssld_pipeline.copies.index.protected_index import ImageWriter, Portrait, ProtectedIndex, open_index
from ssld_pipeline.copies.planted.alterations import KINDS, plant
from ssld_pipeline.copies.threads import on_threads
from ssld_pipeline.kernels.images import decode
from ssld_pipeline.stages.find_copies import search_settings
from ssld_pipeline.stages.index_protected import index_settings

Descriptors = npt.NDArray[np.uint8]
PER_IMAGE = 400
POOL_IMAGES = 14_200_000
CORES = 64
_PATIENCE_S = 900
_NUM_TIMED = 200


class Copy(NamedTuple):
    original: str
    kind: str
    grey: Descriptors
    points: KeyPoints


class Stock:
    """Real descriptors by cluster, from which synthetic ones are drawn."""

    def __init__(self, descriptors: Descriptors) -> None:
        kmeans = faiss.Kmeans(128, 256, niter=6, seed=0, max_points_per_centroid=200)
        kmeans.train(descriptors.astype(np.float32))
        self._descriptors = descriptors
        self._cluster = kmeans.index.search(descriptors.astype(np.float32), 1)[1][:, 0]
        self._order = np.argsort(self._cluster, kind="stable")
        self._starts = np.searchsorted(self._cluster[self._order], np.arange(257))

    def draw(self, count: int, rng: np.random.Generator) -> Descriptors:
        rows = rng.integers(len(self._descriptors), size=count)
        start, end = (self._starts[self._cluster[rows] + i] for i in (0, 1))
        others = self._order[start + (rng.random(count) * (end - start)).astype(np.int64)]
        base = self._descriptors[rows].astype(np.float32)
        step = rng.uniform(-0.5, 0.5, (count, 1)).astype(np.float32) * (self._descriptors[others] - base)
        moved = np.maximum(base + step, 0)
        moved *= 512 / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1)
        return canonical_descriptors(np.minimum(np.rint(moved), 255).astype(np.uint8))[0]


def synthetic(stock: Stock, frame: Descriptors, rng: np.random.Generator) -> Iterator[Portrait]:
    """Protected images without end; only their descriptors and looks are meant to be searched."""
    while True:
        for descriptors in np.split(stock.draw(100 * PER_IMAGE, rng), 100):
            places = rng.random((PER_IMAGE, 4), np.float32)
            points = KeyPoints(
                places[:, :2], places[:, 2] / 20, places[:, 3], np.zeros(PER_IMAGE, np.bool_), descriptors
            )
            looks = look(rng.integers(0, 256, (16, 16), np.uint8))
            yield Portrait(256, 256, np.zeros_like(frame), looks, points)


def write(folder: Path, real: list[Portrait], stock: Stock, num_images: int, num_threads: int) -> dict[str, Any]:
    """An index of ``num_images``, the real ones ("protected/real-N") spread among synthetic ones; times and sizes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    number_at = {int(at): n for n, at in enumerate(np.sort(rng.choice(num_images, len(real), replace=False)))}
    others = synthetic(stock, real[0].frame, rng)
    with ImageWriter(folder) as writer:
        for at in range(num_images):
            number = number_at.get(at)
            image_id = f"protected/synthetic-{at}" if number is None else f"protected/real-{number}"
            writer.add_file(image_id, rng.bytes(16))
            writer.add_image(image_id, next(others) if number is None else real[number])
    return write_index(folder, num_threads) | {"images": num_images}


def write_index(folder: Path, num_threads: int) -> dict[str, Any]:
    descriptors = np.load(folder / "descriptors.npy", mmap_mode="r")
    times = [time.perf_counter()]
    index = nearest.trained_index(descriptors)
    times.append(time.perf_counter())
    nearest.fill(index, descriptors, num_threads)
    times.append(time.perf_counter())
    write_vectors(index, folder)
    times.append(time.perf_counter())
    searched = sum(path.stat().st_size for path in folder.iterdir() if path.name.startswith(("lists", "descriptors.f")))
    return {
        "vectors": len(descriptors),
        "kind": nearest.index_factory(len(descriptors)),
        **{
            f"{step}_s": round(b - a, 1)
            for step, a, b in zip(("train", "add", "write"), times, times[1:], strict=False)
        },
        "index_mb": round(searched / 1e6),
        "all_files_mb": round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6),
    }


def copies_of(photos: list[Path], count: int, config: DedupeConfig) -> list[Copy]:
    """Altered photographs, every kind in turn, searched for key points as pool images are."""
    rng, copies = np.random.default_rng(1), []
    for turn, number in enumerate(rng.choice(len(photos), count)):
        image = decode(photos[number].read_bytes(), min_short_side=config.image_side)
        grey = resize_grey(plant(image.pixels, KINDS[turn % len(KINDS)], rng), config.image_side)
        points = detect_keypoints(grey, config.pool_keypoints)
        copies.append(Copy(f"protected/real-{number}", KINDS[turn % len(KINDS)], grey, points))
    return copies


def searched(photo: Path, config: DedupeConfig) -> KeyPoints:
    image = decode(photo.read_bytes(), min_short_side=config.image_side)
    return detect_keypoints(resize_grey(image.pixels, config.image_side), config.pool_keypoints)


def look_up(
    folder: Path, copies: list[Copy], others: list[KeyPoints], config: DedupeConfig, barrier: Any, results: Any
) -> None:
    """In a process of its own: everything that is measured on an open index."""
    nearest.use_one_thread()
    # What the code itself takes is no part of the figures.
    candidates(opened(folder.with_name("small"), config), copies[0].points, config)
    before, started = memory_mb(), time.perf_counter()
    index = opened(folder, config)
    ready = time.perf_counter()
    first = [candidates(index, copy.points, config) for copy in copies]
    barrier.wait()
    after = memory_mb()
    barrier.wait()
    steps = {
        "search": lambda copy: nearest.search(index.vectors, copy.points.descriptors, config.num_neighbours),
        "propose": lambda copy: candidates(index, copy.points, config),
        "hashes": lambda copy: propose(dihedral_looks(copy.grey), index.looks, config.max_hash_distance),
        "thumbnails": lambda copy: propose(dihedral_looks(copy.grey), index.looks, *with_thumbnails),
    }
    with_thumbnails = config.max_hash_distance, config.min_thumbnail_correlation
    times = {f"{name}_ms": cpu_ms_per_image(step, copies[:_NUM_TIMED]) for name, step in steps.items()}
    missed = [copy.kind for copy, ids in zip(copies, first, strict=True) if copy.original not in ids]
    results.put(
        {
            "open_ms": round(1000 * (ready - started)),
            **times,
            "found": round(1 - len(missed) / len(copies), 4),
            "missed": ", ".join(sorted(missed)),
            "second_looks_at_others": round(sum(stand_out(index, own, config) for own in others) / len(others), 3),
            **{f"{kind.lower()}_mb": round(after[kind] - before[kind], 1) for kind in after},
        }
    )


def cpu_ms_per_image(step: Callable[[Copy], Any], copies: list[Copy]) -> float:
    start = time.process_time()
    for copy in copies:
        step(copy)
    return round(1000 * (time.process_time() - start) / len(copies), 2)


def candidates(index: ProtectedIndex, points: KeyPoints, config: DedupeConfig) -> set[str]:
    images, _ = search.propose(points, index, search_settings(config))
    return {index.image_ids[int(image)] for image in images}


def opened(folder: Path, config: DedupeConfig) -> ProtectedIndex:
    return open_index(folder, config.num_probes, with_recurrence=False)


def stand_out(index: ProtectedIndex, points: KeyPoints, config: DedupeConfig) -> bool:
    """Do votes ask for a second look, if the image is large enough?"""
    _, votes = search.propose(points, index, search_settings(config))
    return bool((votes > search.noise_level(votes, search_settings(config))).any())


def memory_mb() -> dict[str, float]:
    """Of this process: Rss, Pss (what is shared divided by its sharers) and Private (shared with nobody)."""
    rolled = Path("/proc/self/smaps_rollup").read_text()
    kb = {name: int(value) for name, value in re.findall(r"(?m)^(\w+): +(\d+) kB", rolled)}
    private = kb["Private_Clean"] + kb["Private_Dirty"]
    return {"Rss": kb["Rss"] / 1024, "Pss": kb["Pss"] / 1024, "Private": private / 1024}


def in_two_processes(folder: Path, copies: list[Copy], others: list[KeyPoints], config: DedupeConfig) -> dict[str, Any]:
    """What the first of two to end measured."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2, timeout=_PATIENCE_S), spawn.Queue()
    both = [spawn.Process(target=look_up, args=(folder, copies, others, config, barrier, results)) for _ in range(2)]
    for process in both:
        process.start()
    measured: dict[str, Any] = results.get(timeout=_PATIENCE_S)
    for process in both:
        process.join()
    return measured


def neighbour_recall(folder: Path, copies: list[Copy], config: DedupeConfig, num_threads: int) -> float:
    """Share of the four nearest, by brute force, that a search finds; 500 descriptors of copies."""
    index, every = opened(folder, config), np.concatenate([copy.points.descriptors for copy in copies])
    queries = every[np.random.default_rng(2).choice(len(every), 500, replace=False)]
    best = np.full((500, 4), np.inf, np.float32), np.full((500, 4), -1)
    faiss.omp_set_num_threads(num_threads)
    for start in range(0, len(index.descriptors), 250_000):
        part = index.descriptors[start : start + 250_000].astype(np.float32)
        distances, ids = faiss.knn(queries.astype(np.float32), part, 4)
        joined = np.hstack((best[0], distances)), np.hstack((best[1], ids + start))
        order = np.argsort(joined[0], axis=1, kind="stable")[:, :4]
        best = np.take_along_axis(joined[0], order, 1), np.take_along_axis(joined[1], order, 1)
    found = nearest.search(index.vectors, queries, 4)[1]
    return float(np.mean([len(set(a) & set(b)) / 4 for a, b in zip(best[1].tolist(), found.tolist(), strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="a new folder; 65 kB per image, or more")
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--num-real", type=int, default=1000)
    parser.add_argument("--num-copies", type=int, default=620)
    parser.add_argument("--num-threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    config = DedupeConfig()
    photos = sorted(p for p in args.photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    photos = [photos[i] for i in np.random.default_rng(0).permutation(len(photos))]
    photos, spare = photos[:-_NUM_TIMED], photos[-_NUM_TIMED:]
    portraits = list(
        on_threads(lambda path: portray(path.read_bytes(), index_settings(config)), photos, args.num_threads)
    )
    faiss.omp_set_num_threads(args.num_threads)
    stock = Stock(np.concatenate([p.keypoints.descriptors for p in portraits[args.num_real :]]))
    real = portraits[: args.num_real]
    copies = copies_of(photos[: args.num_real], args.num_copies, config)
    others = [searched(path, config) for path in spare]
    for name, num_images in (("small", len(real)), ("large", args.num_images)):
        figures = write(args.scratch / name, real, stock, num_images, args.num_threads)
        figures |= in_two_processes(args.scratch / name, copies, others, config)
        figures["recall_at_4"] = round(neighbour_recall(args.scratch / name, copies, config, args.num_threads), 3)
        figures["index_kb_per_image"] = round(1000 * figures["index_mb"] / num_images, 1)
        print(name, json.dumps(figures, indent=1), flush=True)
    hours = {step: figures[f"{step}_ms"] / 3.6e6 * POOL_IMAGES / CORES for step in ("search", "propose", "hashes")}
    print(
        f"{POOL_IMAGES:,} pool images on {CORES} cores as fast as this one, if memory keeps up with all of them: "
        + ", ".join(f"{step} {value:.2f} h" for step, value in hours.items())
        + " (propose contains search; decoding, SIFT and the comparison of pixels come on top; thumbnails are compared"
        " for images with few key points alone)"
    )


if __name__ == "__main__":
    main()
