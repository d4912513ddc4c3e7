"""What index_protected, find_copies and dedupe find of a planted set, what they remove wrongly, and what it costs.

    python benchmarks/planted.py ... --out FOLDER
    python benchmarks/dedupe.py --set FOLDER [--set-config key=value] [--pairs SEEN] [--workers-check] [--write]

A copy is found if it is removed on account of its own original. Times are of CPU, one thread; every tenth block of the
pool is also given to bare SIFT, in turn with the stage, so that whatever else the machine does falls on both.
--pairs writes missed copies and wrong pairs as pictures, pool left, protected right: look before you believe a figure.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from planted import TIERS
from results import table, write_section

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.copies.features.sift import resize_grey
from ssld_pipeline.copies.index.protected_index import open_indexes
from ssld_pipeline.kernels.images import decode
from ssld_pipeline.kernels.intervals import wilson
from ssld_pipeline.stages import dedupe, find_copies, index_protected
from ssld_pipeline.stages.stage import Setup

BLOCK = 20
BARE_EVERY = 10
LARGE = 200
CHECKED_BY_EIGHT = 400
# Not among what a library of near-duplicates is usually asked for.
UNUSUAL = (
    *("blurred ground", "censored", "doodle", "filter and frame", "ghost", "halftone", "inset", "lens", "palette"),
    *("passe-partout", "pattern", "posterised", "shear", "text page", "vignette"),
)

Result = TypeVar("Result")
Row = dict[str, object]


@dataclass(frozen=True)
class Truth:
    """A row of truth.csv: a copy has a tier, kind, severity and original, every other picture a kind of negative."""

    image: str
    tier: str
    kind: str
    severity: str
    original: str
    negative: str


@dataclass(frozen=True)
class Findings:
    """``removed_for``: the protected pictures on whose account a pool image is removed."""

    removed_for: dict[str, set[str]]
    num_pairs: int
    num_rejects: int
    costs: list[Row]


def settings_of(overrides: Sequence[str]) -> RunConfig:
    inputs = {role: {"uri": f"unused/{role}", "format": "folder"} for role in ("labeled", "protected", "pool")}
    return RunConfig.model_validate(
        {
            "workspace": "unused",
            "inputs": inputs,
            "teacher": {"model": "timm:none", "weights": "unused"},
            "student": {"model": "timm:none"},
            "dedupe": dict(setting.split("=", 1) for setting in overrides),
        }
    )


def in_fresh_process(function: Callable[[], Result]) -> Result:
    """Its result from a process that has held nothing yet, and whose numeric libraries use one thread."""
    os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function).result()


def catalog_rows(files: Iterable[Path]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "image_id": f"{f.parent.name}/{f.name}",
                "role": "pool",
                "uri": str(f),
                "offset": 0,
                "size_bytes": f.stat().st_size,
            }
            for f in files
        ]
    )


# Cost


def build(protected: Path, config: RunConfig, folder: Path) -> list[Row]:
    """Fills ``folder`` with the index; what it took, and the files that matter."""
    files = sorted(protected.iterdir())
    started = time.process_time()
    figures, _ = index_protected.STAGE.build(Setup(config, (), {}), catalog_rows(files), folder)
    took = 1000 * (time.process_time() - started) / len(files)
    sizes = {file.name: file.stat().st_size / len(files) for file in sorted(folder.glob("*/*"))}
    large = {name: size for name, size in sizes.items() if size > 0.02 * sum(sizes.values())}
    return [
        cost("protected images", len(files)),
        cost("key points, per protected image", figures["num_vectors"] / len(files)),
        cost("index: CPU, ms per protected image", took),
        *(
            cost(f"index: {name}, bytes per protected image", n)
            for name, n in {**large, "all": sum(sizes.values())}.items()
        ),
    ]


def resident() -> dict[str, int]:
    """Bytes of this process in memory: its own, and pages of mapped files, which processes share."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return {name: 1024 * int(re.findall(rf"Rss{name}:\s+(\d+)", text)[0]) for name in ("Anon", "File")}


def open_cost(folder: Path, num_probes: int) -> list[Row]:
    import faiss  # noqa: F401  imported here, not while the growth is measured
    import pyarrow.parquet  # noqa: F401

    before = resident()
    indexes = open_indexes(folder, num_probes)
    after, num_images = resident(), sum(len(index.image_ids) for index in indexes)
    return [
        cost("open: own memory, bytes per protected image", (after["Anon"] - before["Anon"]) / num_images),
        cost("open: mapped pages, bytes per protected image", (after["File"] - before["File"]) / num_images),
    ]


def cpu_ms(function: Callable[[], Result]) -> tuple[float, Result]:
    started = time.process_time()
    result = function()
    return 1000 * (time.process_time() - started), result


def bare_sift(greys: list[npt.NDArray[np.uint8]], num_keypoints: int) -> None:
    """OpenCV's own, as it comes; ``num_keypoints`` 0: no limit."""
    sift = cv2.SIFT_create(nfeatures=num_keypoints)
    for grey in greys:
        sift.detectAndCompute(grey, None)


def time_bare(files: Sequence[Path], config: RunConfig) -> tuple[float, float]:
    """ms of SIFT on decoded pictures: at the stage's size with its budget, and at native size without one."""
    pictures = [decode(file.read_bytes()).pixels for file in files]
    small = [resize_grey(pixels, config.dedupe.image_side) for pixels in pictures]
    native = [cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in pictures]
    return (
        cpu_ms(partial(bare_sift, small, config.dedupe.pool_keypoints))[0],
        cpu_ms(partial(bare_sift, native, 0))[0],
    )


def speed(stage: list[float], small: list[float], native: list[float], sampled: list[float]) -> list[Row]:
    """Figures from ms per block; ``sampled``: of the stage, in the blocks that bare SIFT had, too."""
    num_bare = BLOCK * len(sampled)
    rows = [
        cost("stage, whole pool: CPU, ms per image", sum(stage) / (BLOCK * len(stage))),
        cost(f"stage, {num_bare} images in turn with bare SIFT: ms", sum(sampled) / num_bare),
    ]
    for name, bare in (("same size and budget", small), ("native size, no budget", native)):
        ratios = np.array(bare) / np.array(sampled)
        low, high = np.quantile(ratios, (0.1, 0.9))
        ratio = f"{sum(bare) / sum(sampled):.2f} (.1 to .9 of the blocks: {low:.2f} to {high:.2f})"
        rows += [cost(f"bare SIFT, {name}: ms", sum(bare) / num_bare), cost(f"ratio bare / stage, {name}", ratio)]
    return rows


def large_pictures(files: Sequence[Path], folder: Path) -> list[Path]:
    """Pictures of ImageNet's usual 500x375 pixels: photographs cut to four by three, enlarged and sharpened, since
    those at hand are smaller."""
    made = []
    for number, file in enumerate(files):
        photo = cv2.imread(str(file))
        height, width = photo.shape[:2]
        height, width = min(height, width * 3 // 4), min(width, height * 4 // 3)
        large = cv2.resize(photo[:height, :width], (500, 375), interpolation=cv2.INTER_LANCZOS4)
        large = cv2.addWeighted(large, 1.5, cv2.GaussianBlur(large, (0, 0), 1.2), -0.5, 0)
        made.append(folder / f"{number:05}.jpg")
        cv2.imwrite(str(made[-1]), large)
    return made


def time_large(work: Callable[[pa.Table], Any], files: Sequence[Path]) -> list[Row]:
    """The stage and bare SIFT at native size in turn on large pictures, by blocks."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = large_pictures(files, Path(folder))
        blocks = [pictures[i : i + BLOCK] for i in range(0, len(pictures), BLOCK)]
        stage, bare = [], []
        for block in blocks:
            greys = [cv2.cvtColor(decode(file.read_bytes()).pixels, cv2.COLOR_RGB2GRAY) for file in block]
            bare.append(cpu_ms(partial(bare_sift, greys, 0))[0])
            stage.append(cpu_ms(partial(work, catalog_rows(block)))[0])
    ratios = np.array(bare) / np.array(stage)
    low, high = np.quantile(ratios, (0.1, 0.9))
    ratio = f"{sum(bare) / sum(stage):.2f} (.1 to .9 of the blocks: {low:.2f} to {high:.2f})"
    return [
        cost(f"stage, {len(pictures)} pictures of 500x375: ms", sum(stage) / len(pictures)),
        cost("bare SIFT, 500x375, no budget: ms", sum(bare) / len(pictures)),
        cost("ratio bare / stage, 500x375, no budget", ratio),
    ]


def cost(figure: str, value: float | str) -> Row:
    return {"figure": figure, "value": value if isinstance(value, str) else f"{value:,.{1 if value < 1000 else 0}f}"}


# Findings


def find(pool: Path, photos: Sequence[Path], config: RunConfig, index: Path, workers_check: bool) -> Findings:
    """Runs the stages over the pool block by block, on one thread, and SIFT alone over some of the blocks.

    ``photos``: those of which large pictures are made.
    """
    cv2.setNumThreads(1)
    work = find_copies.STAGE.open(Setup(config, (), {"index_protected": index}, 1))
    files = sorted(pool.iterdir())
    blocks = [files[i : i + BLOCK] for i in range(0, len(files) // BLOCK * BLOCK, BLOCK)]
    work(catalog_rows(blocks[0]))  # compiles, and reads what is read once
    parts, stage, bare, sampled = [], [], [], []
    for number, block in enumerate(blocks):
        is_sampled, is_last = number % BARE_EVERY == 0, number // BARE_EVERY % 2
        bare += [time_bare(block, config)] if is_sampled and not is_last else []
        took, part = cpu_ms(partial(work, catalog_rows(block)))
        bare += [time_bare(block, config)] if is_sampled and is_last else []
        stage.append(took)
        sampled += [took] if is_sampled else []
        parts.append(part)
    if rest := files[len(blocks) * BLOCK :]:
        parts.append(work(catalog_rows(rest)))
    pairs = pa.concat_tables([part.rows for part in parts])
    if workers_check:
        check_with_eight(pairs, files[:CHECKED_BY_EIGHT], config, index)
    small, native = (list(times) for times in zip(*bare, strict=True))
    costs = [*speed(stage, small, native, sampled), *time_large(work, photos)]
    return Findings(decide(pairs, config), len(pairs), sum(len(part.rejects) for part in parts), costs)


def decide(pairs: pa.Table, config: RunConfig) -> dict[str, set[str]]:
    removed_for: dict[str, set[str]] = {}
    for image, protected in decided_pairs(pairs, config):
        removed_for.setdefault(Path(image).name, set()).add(Path(protected).name)
    return removed_for


def decided_pairs(pairs: pa.Table, config: RunConfig) -> list[tuple[str, str]]:
    """(image_id, protected_id) of the pairs on whose account images are removed."""
    with duckdb.connect() as connection:
        connection.register("pairs", pairs.append_column("part", pa.array([""] * len(pairs), pa.string())))
        duplicates = dedupe.STAGE.query(connection, config).to_pylist()
    return [(row["image_id"], row["protected_id"]) for row in duplicates if row["is_duplicate"]]


def check_with_eight(pairs: pa.Table, files: Sequence[Path], config: RunConfig, index: Path) -> None:
    """Raises AssertionError unless eight threads, given the files backwards, find the same pairs."""
    work = find_copies.STAGE.open(Setup(config, (), {"index_protected": index}, 8))
    again, names = work(catalog_rows(files[::-1])).rows, set(catalog_rows(files)["image_id"].to_pylist())
    keys = [("image_id", "ascending"), ("protected_id", "ascending")]
    once = [row for row in pairs.sort_by(keys).to_pylist() if row["image_id"] in names]
    if again.sort_by(keys).to_pylist() != once:
        raise AssertionError(f"eight threads find other pairs than one, of the first {len(files)} images")


# Report


def with_interval(name: str, found: int, num: int) -> Row:
    low, high = wilson(found / num if num else 0, num)
    return {name: f"{found / num:.4f}" if num else "-", "95 %": f"{low:.4f} to {high:.4f}"}


def is_found(copy: Truth, findings: Findings) -> bool:
    return copy.original in findings.removed_for.get(copy.image, ())


def tier_rows(copies: list[Truth], findings: Findings) -> list[Row]:
    rows: list[Row] = []
    for tier in (*TIERS, "all"):
        chosen = [copy for copy in copies if tier in (copy.tier, "all")]
        found = sum(is_found(copy, findings) for copy in chosen)
        other = sum(bool(findings.removed_for.get(c.image)) and not is_found(c, findings) for c in chosen)
        interval = with_interval("recall", found, len(chosen))
        rows.append({"tier": tier, "copies": len(chosen), "found": found, **interval, "removed for another": other})
    return rows


def kind_rows(copies: list[Truth], findings: Findings) -> list[Row]:
    """A kind's recall, and found / planted of each of its tiers and, where some were missed, severities."""
    rows: list[Row] = []
    for kind in dict.fromkeys(sorted(copy.kind for copy in copies)):
        chosen = [copy for copy in copies if copy.kind == kind]
        num, found = Counter(c.tier for c in chosen), Counter(c.tier for c in chosen if is_found(c, findings))
        missed = Counter(c.severity for c in chosen if not is_found(c, findings))
        tiers = {tier: f"{found[tier]}/{num[tier]}" if num[tier] else "" for tier in TIERS}
        worst = ", ".join(f"{severity or 'all'}: {n}" for severity, n in missed.most_common())
        interval = with_interval("recall", sum(found.values()), len(chosen))
        rows.append({"kind": kind, **interval, **tiers, "missed, by severity": worst})
    return rows


def negative_rows(negatives: list[Truth], findings: Findings) -> list[Row]:
    rows: list[Row] = []
    for kind in ("all", *dict.fromkeys(sorted(n.negative for n in negatives))):
        chosen = [n for n in negatives if kind in (n.negative, "all")]
        removed = sum(n.image in findings.removed_for for n in chosen)
        interval = with_interval("share", removed, len(chosen))
        rows.append({"no copy": kind, "images": len(chosen), "removed": removed, **interval})
    return rows


def wrong_pairs(truths: list[Truth], findings: Findings) -> list[tuple[Truth, str]]:
    return [(t, other) for t in truths for other in sorted(findings.removed_for.get(t.image, set()) - {t.original})]


def report(truths: list[Truth], findings: Findings, costs: list[Row]) -> str:
    """Markdown tables."""
    copies, negatives = ([t for t in truths if bool(t.negative) == side] for side in (False, True))
    wrong = len(wrong_pairs(copies, findings))
    sentence = (
        f"{len(copies):,} copies and {len(negatives):,} others; {findings.num_pairs:,} pairs looked at, "
        f"{findings.num_rejects} rejects; {wrong} copies' pairs with a wrong protected image."
    )
    usual = [copy for copy in copies if copy.kind not in UNUSUAL]
    tables = negative_rows(negatives, findings), costs, kind_rows(copies, findings)
    return "\n\n".join(
        [
            sentence,
            table(tier_rows(copies, findings)),
            f"Of these without {', '.join(UNUSUAL)}:",
            table(tier_rows(usual, findings)),
            *map(table, tables),
        ]
    )


def write_pairs(folder: Path, out: Path, truths: list[Truth], findings: Findings) -> None:
    """Missed copies beside their originals, and everything else that was removed beside what it was removed for."""
    out.mkdir(parents=True, exist_ok=True)
    missed = [(t, t.original) for t in truths if t.original and not is_found(t, findings)]
    for verdict, pairs in (("missed", missed), ("wrong", wrong_pairs(truths, findings))):
        for truth, protected in pairs:
            files = folder / "pool" / truth.image, folder / "protected" / protected
            sides: list[Any] = [cv2.resize(cv2.imread(str(file)), (320, 320)) for file in files]
            what = re.sub(r"[^\w.]+", "-", truth.negative or f"{truth.tier} {truth.kind} {truth.severity}")
            cv2.imwrite(str(out / f"{verdict}-{what}-{truth.image}"), np.hstack(sides))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True, metavar="FOLDER", help="what planted.py wrote")
    parser.add_argument("--set-config", action="append", default=[], metavar="KEY=VALUE", help="of the section dedupe")
    parser.add_argument("--pairs", type=Path, help="a folder for pictures of what went wrong")
    parser.add_argument("--workers-check", action="store_true", help="see that eight threads find the same pairs")
    parser.add_argument("--write", action="store_true", help="write the figures to RESULTS.md")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    config = settings_of(args.set_config)
    with (args.set / "truth.csv").open(newline="") as file:
        truths = [Truth(**row) for row in csv.DictReader(file)]
    photos = [args.set / "pool" / t.image for t in truths if t.negative == "other photograph"][:LARGE]
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch)
        costs = in_fresh_process(partial(build, args.set / "protected", config, index))
        costs += in_fresh_process(partial(open_cost, index, config.dedupe.num_probes))
        findings = in_fresh_process(partial(find, args.set / "pool", photos, config, index, args.workers_check))
    body = report(truths, findings, costs + findings.costs)
    print(body)
    if args.pairs:
        write_pairs(args.set, args.pairs, truths, findings)
    if args.write:
        overrides = "".join(f" --set-config {setting}" for setting in args.set_config)
        write_section(f"Copies, planted: {args.set.name}", f"python benchmarks/dedupe.py --set FOLDER{overrides}", body)


if __name__ == "__main__":
    main()
