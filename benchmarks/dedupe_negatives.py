"""Of how many photographs that copy nothing does dedupe remove one? Photographs are protected in turn.

    python benchmarks/dedupe_negatives.py --photos DIR [--rounds 22] [--pairs SEEN] [--write]

In each round 300 of the photographs under DIR (pictures or tars of them) are protected and all others are the pool.
Nothing is planted, yet a thing may have been photographed twice: --pairs writes what was removed as pictures, pool
left, protected right; look before you believe a figure. Equal files are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from dedupe import cost, decided_pairs, settings_of
from planted import Photos, find_photos
from results import table, write_section

from ssld_pipeline.kernels.intervals import wilson
from ssld_pipeline.stages import find_copies, index_protected
from ssld_pipeline.stages.stage import Setup

NUM_PROTECTED = 300

Pair = tuple[int, int]


def catalog_rows(photos: Photos, role: str, numbers: Sequence[int]) -> pa.Table:
    rows = [(f"{role}/{number:06}", *photos.places[number]) for number in numbers]
    return pa.Table.from_pylist(
        [
            {"image_id": i, "role": "pool", "uri": str(file), "offset": at, "size_bytes": size}
            for i, file, at, size in rows
        ]
    )


def distinct(photos: Photos) -> list[int]:
    """The number of the first of all photographs of equal bytes."""
    first: dict[bytes, int] = {}
    for number, (file, at, size) in enumerate(photos.places):
        with Path(file).open("rb") as stream:
            stream.seek(at)
            first.setdefault(hashlib.sha256(stream.read(size)).digest(), number)
    return list(first.values())


def play(photos: Photos, own: list[int], seed: int) -> tuple[int, list[Pair]]:
    """Images of the pool of one round, and (pool, protected) numbers of what is removed."""
    cv2.setNumThreads(1)
    config = settings_of(())
    order = np.random.default_rng(seed).permutation(own).tolist()
    protected, pool = order[:NUM_PROTECTED], order[NUM_PROTECTED:]
    with tempfile.TemporaryDirectory() as folder:
        index_protected.STAGE.build(Setup(config, (), {}), catalog_rows(photos, "protected", protected), Path(folder))
        work = find_copies.STAGE.open(Setup(config, (), {"index_protected": Path(folder)}, 1))
        part = work(catalog_rows(photos, "pool", pool))
    pairs = [tuple(int(name.split("/")[1]) for name in pair) for pair in decided_pairs(part.rows, config)]
    return len(pool) - len(part.rejects), [(image, other) for image, other in pairs]


def write_pairs(photos: Photos, pairs: Sequence[Pair], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        sides = [cv2.resize(photos[number], (320, 320)) for number in pair]
        cv2.imwrite(str(folder / f"{pair[0]:06}-{pair[1]:06}.jpg"), np.hstack(sides))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, action="append")
    parser.add_argument("--rounds", type=int, default=22)
    parser.add_argument("--pairs", type=Path, help="a folder for pictures of what was removed")
    parser.add_argument("--write", action="store_true", help="write the figures to RESULTS.md")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    photos = find_photos(args.photos, np.random.default_rng(0))
    own = distinct(photos)
    if len(own) <= NUM_PROTECTED:
        raise SystemExit(f"more than {NUM_PROTECTED} photographs are needed, found {len(own)}; name more with --photos")
    os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as processes:
        rounds = list(processes.map(partial(play, photos, own), range(args.rounds)))
    num = sum(size for size, _ in rounds)
    removed = [pair for _, pairs in rounds for pair in pairs]
    images = sum(len({image for image, _ in pairs}) for _, pairs in rounds)
    low, high = wilson(images / num, num)
    alike = sorted({(min(pair), max(pair)) for pair in removed})
    rows = [
        cost("photographs", f"{len(own):,}"),
        cost("rounds of 300 protected", f"{args.rounds}"),
        cost("pool images that copy nothing", f"{num:,}"),
        cost("removed", f"{images} ({images / num:.1e}; 95 %: {low:.1e} to {high:.1e})"),
        cost("distinct pairs of photographs among them", f"{len(alike)}"),
    ]
    print(table(rows))
    for first, second in alike:
        print(first, second, *(Path(photos.places[number][0]).name for number in (first, second)))
    if args.pairs:
        write_pairs(photos, alike, args.pairs)
    if args.write:
        write_section(
            "Photographs that copy nothing", "python benchmarks/dedupe_negatives.py --photos DIR", table(rows)
        )


if __name__ == "__main__":
    main()
