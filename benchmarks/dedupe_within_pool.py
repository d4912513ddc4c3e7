"""Near-identical images of a pool of a million: candidates per image, time, and how both grow.

    python benchmarks/dedupe_within_pool.py --images PHOTOS [--sizes 100000 300000 1000000] [--write]

Each image of the drawn pool is a cut-out of a photograph, of at least half its side, over which lies a fainter cut-out
of another, both mirrored at random, so that there are as many as one likes. What shows one photograph in nearly the
same cut is a repeat that nobody planted, so its candidates are counted apart. How they crowd is printed beside how the
photographs themselves do: nearest correlations of coarse edges, and candidates among as many. One in fifty is then
planted again: trimmed by up to 2 % a side, brightened, under noise as of JPEG at quality 30.

What the pixels cost is measured on the photographs: the frame of an image (read, decoded, squeezed), and a comparison.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from results import table, write_section

from ssld_pipeline.copies.candidates.perceptual_hash import thumbnail
from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.pixels.block_agreement import FRAME_SIDE_PX, compare_pixels, protected_frame
from ssld_pipeline.copies.within_pool import near_pairs
from ssld_pipeline.copies.within_pool.near_identical import Frames, near_identical
from ssld_pipeline.kernels.ahead import ahead
from ssld_pipeline.kernels.images import decode

POOL_IMAGES = 14_200_000
_SIDE = 64
_PLANTED_SHARE = 0.02
_NUM_COMPARED = 12_800

Bytes = npt.NDArray[np.uint8]
Photos = npt.NDArray[np.int64]


def main() -> None:
    arguments = _arguments()
    cv2.setNumThreads(1)
    photos = [p.read_bytes() for p in sorted(arguments.images.rglob("*.jpg"))[: arguments.num_photos]]
    greys = [resize_grey(decode(data, min_short_side=64).pixels, 256) for data in photos]
    squares = np.stack([cv2.resize(grey, (2 * _SIDE, 2 * _SIDE), interpolation=cv2.INTER_AREA) for grey in greys])
    body = f"{table(crowding(greys, squares, arguments.threads))}\n\n"
    rows = [measure(squares, size, arguments.threads) for size in arguments.sizes]
    body += f"{table([shown(row) for row in rows])}\n\n" + "\n".join(projection(rows, photos))
    print(body)
    if arguments.write:
        command = f"python benchmarks/dedupe_within_pool.py --images PHOTOS --threads {arguments.threads}"
        write_section("Dedupe within the pool", command, body)


def crowding(greys: Sequence[Bytes], squares: Bytes, num_threads: int) -> list[dict[str, object]]:
    """Real photographs beside as many drawn ones."""
    sets = {
        "photographs": np.stack([thumbnail(grey) for grey in greys]),
        "drawn": draw(squares, len(greys), np.random.default_rng(1))[0],
    }
    rows: list[dict[str, object]] = []
    for name, thumbnails in sets.items():
        vectors = near_pairs.coarse_edges(thumbnails)
        nearest = np.concatenate([_nearest(vectors, i) for i in range(0, len(vectors), 1000)])
        quantiles = np.quantile(nearest, (0.1, 0.5, 0.9, 0.99))
        rows.append(
            {
                "": f"{len(thumbnails):,} {name}",
                "correlation with the nearest, 10 % / median / 90 % / 99 %": " / ".join(f"{q:.3f}" for q in quantiles),
                "candidates": len(near_pairs.near_pairs(thumbnails, num_threads)),
            }
        )
    return rows


def _nearest(vectors: npt.NDArray[np.float32], start: int) -> npt.NDArray[np.float32]:
    correlation = vectors[start : start + 1000] @ vectors.T
    rows = np.arange(len(correlation))
    correlation[rows, rows + start] = -1
    return np.asarray(correlation.max(axis=1), np.float32)


def draw(squares: Bytes, count: int, rng: np.random.Generator, again: bool = False) -> tuple[Bytes, Photos]:
    """(uint8 [n, 1024], int64 [n]: the photograph that one mostly sees), n = count; all of them twice if ``again``."""
    photos = rng.integers(len(squares), size=count)
    drawn = (_blend(squares, photo, rng) for photo in photos)
    looks = [(thumbnail(one), thumbnail(_again(one, rng)) if again else None) for one in drawn]
    found = [np.stack([first for first, _ in looks])]
    if again:
        found.append(np.stack([second for _, second in looks]))
    return np.concatenate(found), np.tile(photos, len(found))


def _blend(squares: Bytes, photo: int, rng: np.random.Generator) -> Bytes:
    first, second = (_cut_out(squares[k], rng) for k in (photo, rng.integers(len(squares))))
    share = rng.uniform(0.5, 1)
    return np.asarray(cv2.addWeighted(first, share, second, 1 - share, 0), np.uint8)


def _cut_out(square: Bytes, rng: np.random.Generator) -> Bytes:
    side = int(rng.integers(_SIDE, 2 * _SIDE + 1))
    x, y = rng.integers(0, 2 * _SIDE - side + 1, 2)
    part = cv2.resize(square[y : y + side, x : x + side], (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(part[:, ::-1]) if rng.random() < 0.5 else np.asarray(part, np.uint8)


def _again(square: Bytes, rng: np.random.Generator) -> Bytes:
    left, top, right, bottom = rng.uniform(0, 0.02 * _SIDE, 4)
    scale = np.array([_SIDE / (_SIDE - left - right), _SIDE / (_SIDE - top - bottom)])
    matrix = np.array([[scale[0], 0, -left * scale[0]], [0, scale[1], -top * scale[1]]])
    moved = cv2.warpAffine(square, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    bright = 255 * (moved / 255.0) ** rng.uniform(0.7, 1.4)
    return np.clip(np.rint(bright + rng.normal(0, 2, bright.shape)), 0, 255).astype(np.uint8)


def measure(squares: Bytes, size: int, num_threads: int) -> dict[str, Any]:
    planted = int(_PLANTED_SHARE * size)
    rng = np.random.default_rng(size)
    sets = draw(squares, planted, rng, again=True), draw(squares, size - 2 * planted, rng)
    thumbnails, photos = (np.concatenate(parts) for parts in zip(*sets, strict=True))
    del sets
    started, cpu = time.monotonic(), time.process_time()
    pairs = near_pairs.near_pairs(thumbnails, num_threads)
    own = (pairs[:, 1] - pairs[:, 0] == planted) & (pairs[:, 0] < planted)
    reachable = near_pairs.similar_pairs(
        thumbnails, np.stack((np.arange(planted), np.arange(planted) + planted), axis=1)
    )
    same = (photos[pairs[:, 0]] == photos[pairs[:, 1]]) & ~own
    others = pairs[~own & ~same]
    return {
        "images": size,
        "seconds": time.monotonic() - started,
        "cpu": time.process_time() - cpu,
        "same": same.sum() / size,
        "candidates": len(others) / size,
        "recall": own.sum() / planted,
        "missed": 1 - own.sum() / len(reachable),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def shown(row: dict[str, Any]) -> dict[str, object]:
    return {
        "images": f"{row['images']:,}",
        "index": near_pairs.index_factory(row["images"]),
        "CPU s": f"{row['cpu']:.1f}",
        "CPU µs per image": f"{1e6 * row['cpu'] / row['images']:.0f}",
        "wall s": f"{row['seconds']:.1f}",
        "candidates per image: of one photograph": f"{row['same']:.4f}",
        "of two": f"{row['candidates']:.5f}",
        "repeats proposed": f"{row['recall']:.4f}",
        "missed by the search": f"{row['missed']:.4f}",
        "peak GiB": f"{row['peak']:.2f}",
    }


def projection(rows: Sequence[dict[str, Any]], photos: Sequence[bytes]) -> list[str]:
    """Time grows as images^a with the a of the smallest and the largest size; candidates of two photographs in
    proportion to the number of images, as chance has it, to 8 per image at most."""
    first, last = rows[0], rows[-1]
    power = math.log(last["cpu"] / first["cpu"]) / math.log(last["images"] / first["images"])
    search_h = last["cpu"] * (POOL_IMAGES / last["images"]) ** power / 3600
    chance = max(row["candidates"] / row["images"] for row in rows)
    natural = min(8.0, chance * POOL_IMAGES)
    involved = min(1.0, 2 * (natural + _PLANTED_SHARE))
    look_ms, frame_ms, natural_ms, copy_ms = pixel_costs(photos)
    look_h, frame_h = (POOL_IMAGES * ms / 3.6e6 for ms in (look_ms, frame_ms * involved))
    one, two = (comparison_s(photos, num_processes) for num_processes in (1, 2))
    compare_h = POOL_IMAGES * (natural_ms * natural + copy_ms * _PLANTED_SHARE) / 3.6e6
    return [
        f"From {first['images']:,} to {last['images']:,} images, processor time grows as images^{power:.2f}.",
        f"look: {look_ms:.2f} ms per image; frame: {frame_ms:.2f} ms; a comparison: {natural_ms:.2f} ms of two "
        f"photographs, {copy_ms:.2f} ms of a photograph and its copy.",
        f"Projected to {POOL_IMAGES:,} images, core hours: look {look_h:.1f}, then search {search_h:.1f}, frames "
        f"{frame_h:.1f} (of at most {involved:.2f} of the images), comparisons {compare_h:.1f} ({natural:.2f} per "
        f"image of two pictures, {_PLANTED_SHARE} of one).",
        f"{_NUM_COMPARED:,} comparisons by 2 processes, their start included, take {two / one:.2f} of the time of 1.",
        f"Memory: thumbnails {POOL_IMAGES * 1024 / 2**30:.1f} GiB on disk, mapped; index "
        f"{POOL_IMAGES * 104 / 2**30:.1f} GiB; frames {POOL_IMAGES * involved * FRAME_SIDE_PX**2 / 2**30:.0f} GiB on "
        "disk, mapped.",
        f"Assumed: one image in {1 / _PLANTED_SHARE:.0f} has a repeat, and two pictures of the pool are alike as often "
        "as two drawn ones.",
    ]


def pixel_costs(photos: Sequence[bytes]) -> tuple[float, float, float, float]:
    """Milliseconds of one thread: a look, a frame, the comparison of two photographs, and of one with its copy."""
    few = photos[:400]
    looks = _timed(lambda d: thumbnail(resize_grey(decode(d, min_short_side=64).pixels, 256)), few)
    frames = _timed(lambda d: _frame(decode(d, min_short_side=FRAME_SIDE_PX).pixels), few)
    shots = [_frame(decode(d).pixels) for d in few]
    again = [_frame(_recompressed(decode(d).pixels)) for d in few]
    same = np.eye(3)
    natural = _timed(lambda pair: compare_pixels(*pair, same, (1, 1)), list(pairwise(shots)))
    copies = _timed(lambda pair: compare_pixels(*pair, same, (1, 1)), list(zip(again, shots, strict=True)))
    return looks, frames, natural, copies


def comparison_s(photos: Sequence[bytes], num_processes: int) -> float:
    """Seconds by the clock of ``_NUM_COMPARED`` comparisons of a photograph and its copy."""
    few = [decode(data).pixels for data in photos[:200]]
    shots = np.stack([*map(_frame, few), *(_frame(_recompressed(pixels)) for pixels in few)])
    copies = np.stack((np.arange(len(few)), np.arange(len(few)) + len(few)), axis=1)
    pairs = np.resize(copies, (_NUM_COMPARED, 2)).astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.npy"
        np.save(path, shots)
        ones = np.ones(len(shots), np.bool_)
        frames = Frames(np.arange(len(shots)), ones, path, np.full((len(shots), 2), FRAME_SIDE_PX))
        started = time.monotonic()
        near_identical(frames, pairs, len(shots), 0.9, num_processes)
        return time.monotonic() - started


def _frame(pixels: Bytes) -> Bytes:
    return protected_frame(resize_grey(pixels, max(pixels.shape)))


def _recompressed(pixels: Bytes) -> Bytes:
    half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", half, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _timed(function: Any, items: Sequence[Any]) -> float:
    list(ahead(function, items[:8], 1))  # compiled and warm
    started = time.process_time()
    list(ahead(function, items, 1))
    return 1000 * (time.process_time() - started) / len(items)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs, searched for .jpg")
    parser.add_argument("--num-photos", type=int, default=3000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write the figures to RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
