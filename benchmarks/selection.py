"""Time and memory of `ssld select` on a drawn table of soft labels, beside the bare query over its Parquet files.

    python benchmarks/selection.py --scratch FOLDER [--rows 14197122] [--classes 1000] [--per-class 4000] [--write]

Draws the tables `catalog` and `soft_labels` in their real schemas as ImageNet-22k would fill them (some 5 GB, minutes;
kept in FOLDER, where a second call finds them), then runs, each in a process of its own and in turn:

* query: DuckDB, the k best of each class with the addresses of their images, from the Parquet files into memory;
* query to file: the same into a Parquet file;
* select: `ssld select CONFIG`, which also looks at the inputs, checks that what it stands on is up to date, digests the
  rows and commits them to the Delta table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml
from results import table, write_section

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import CATALOG, SOFT_LABELS
from ssld_pipeline.kernels.soft_label import round_mantissa
from ssld_pipeline.pipeline import stage_named
from ssld_pipeline.runner.shapes.table import shape_of
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.survey import FileDigests, survey
from ssld_pipeline.runner.units import Unit
from ssld_pipeline.store.workspace import Workspace

NUM_KEPT = 20
ROWS_PER_TAR = 100_000

QUERY = """
    WITH ranked AS (
        SELECT image_id, top1_class AS class_id, top1_prob AS score,
               row_number() OVER (PARTITION BY top1_class ORDER BY top1_prob DESC, image_id) AS rank
        FROM read_parquet('{workspace}/soft_labels/*.parquet') WHERE view = 0
    )
    SELECT image_id, role, uri, "offset", size_bytes, r.class_id, score, rank::INTEGER AS rank, stamp
    FROM ranked r JOIN read_parquet('{workspace}/catalog/*.parquet') c USING (image_id)
    WHERE rank <= {per_class} AND c.role = 'pool'
    UNION ALL
    SELECT image_id, role, uri, "offset", size_bytes, class_id, NULL, NULL, stamp
    FROM read_parquet('{workspace}/catalog/*.parquet') WHERE role = 'labeled' AND class_id IS NOT NULL
"""
COPY = f"COPY ({QUERY}) TO '{{target}}' (FORMAT parquet, COMPRESSION zstd)"
_NOTE = "Medians; peaks are the largest seen. select / it: median over the pairs of runs that followed each other."


def main() -> None:
    arguments = _arguments()
    config = arguments.scratch / f"{arguments.rows}x{arguments.classes}" / "config.yaml"
    if not config.exists():
        draw(config, arguments.rows, arguments.classes, arguments.per_class)
    workspace = Path(load_config(config).workspace)
    names = {"workspace": workspace, "per_class": arguments.per_class, "target": config.with_name("bare.parquet")}
    commands = {
        "query": _python(f"duckdb.sql({QUERY.format(**names)!r}).to_arrow_table()"),
        "query to file": _python(f"duckdb.execute({COPY.format(**names)!r})"),
        "select": [sys.executable, "-m", "ssld_pipeline", "select", str(config), *_overrides(arguments)],
    }
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            forget_manifest(config)
            runs[name].append(measured(command))
            print(f"{name:14} {runs[name][-1]}", flush=True)
    if not arguments.set:
        compare(config, names["target"])
    body = f"{table([summary(name, runs[name], runs['select']) for name in commands])}\n\n{_NOTE}"
    print(body)
    if arguments.write:
        write_section(f"Selection: {arguments.rows:,} rows, {arguments.classes:,} classes", _command(arguments), body)


class Run(NamedTuple):
    seconds: float
    cpu_seconds: float
    peak_gib: float


def summary(name: str, runs: list[Run], select: list[Run]) -> dict[str, object]:
    wall = statistics.median(s.seconds / r.seconds for s, r in zip(select, runs, strict=True))
    cpu = statistics.median(s.cpu_seconds / r.cpu_seconds for s, r in zip(select, runs, strict=True))
    return {
        "": name,
        "seconds": f"{statistics.median(r.seconds for r in runs):.1f}",
        "CPU seconds": f"{statistics.median(r.cpu_seconds for r in runs):.1f}",
        "peak GiB": f"{max(r.peak_gib for r in runs):.2f}",
        "select / it": f"{wall:.2f}",
        "select / it, CPU": f"{cpu:.2f}",
    }


def compare(config: Path, bare: object) -> None:
    """Ends this script where the manifest does not hold the rows of the bare query."""
    with Workspace(load_config(config).workspace).connect("manifest") as tables:
        columns = "image_id, class_id, score, rank, uri"
        both = f"SELECT {columns} FROM manifest EXCEPT ALL SELECT {columns} FROM read_parquet('{bare}')"
        if tables.execute(f"SELECT count(*) FROM ({both})").fetchall() != [(0,)]:
            sys.exit("select and the bare query disagree")


def _python(statement: str) -> list[str]:
    return [sys.executable, "-c", f"import duckdb; duckdb.execute('SET enable_progress_bar = false'); {statement}"]


def measured(command: list[str]) -> Run:
    """A process; ends this script where it fails."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    seconds = time.monotonic() - started
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def forget_manifest(config: Path) -> None:
    """Takes the committed manifest out of its table, so that select has everything to do."""
    manifest = Workspace(load_config(config).workspace).tables["manifest"]
    parts = list(manifest.parts().values())
    manifest.commit([], parts)
    for part in parts:
        Path(manifest.uri, part.file).unlink()


def units_of(name: str, state: State) -> list[Unit]:
    stage = stage_named(state.config, name)
    return shape_of(stage).units(stage, state)


def draw(config: Path, num_rows: int, num_classes: int, per_class: int) -> None:
    """A workspace in which everything that select stands on is up to date."""
    folder = config.parent
    num_tars = -(-num_rows // ROWS_PER_TAR)
    for place in ("labeled/0", "protected/0", "pool"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for file in ("labeled/0/0.jpg", "protected/0/0.jpg", "teacher.safetensors"):
        (folder / file).write_bytes(b"never opened")
    for number in range(num_tars):
        (folder / f"pool/pool-{number:03d}.tar").write_bytes(b"never opened")
    (folder / "classes.txt").write_text("".join(f"class {i}\n" for i in range(num_classes)))
    draft = config.with_name("draft.yaml")
    draft.write_text(yaml.safe_dump(_settings(per_class)))
    _write_tables(load_config(draft), num_rows, num_classes)
    draft.rename(config)


def _settings(per_class: int) -> dict[str, object]:
    return {
        "workspace": "workspace",
        "classes": "classes.txt",
        "inputs": {
            "labeled": {"uri": "labeled", "format": "folder"},
            "protected": {"uri": "protected", "format": "folder"},
            "pool": {"uri": "pool", "format": "tar"},
        },
        "catalog": {"images_per_part": ROWS_PER_TAR},
        "teacher": {"model": "timm:none", "weights": "teacher.safetensors"},
        "student": {"model": "timm:none"},
        "label": {"num_kept": NUM_KEPT},
        "select": {"per_class": per_class},
        "placement": {"runner": "local"},
    }


def _write_tables(config: RunConfig, num_rows: int, num_classes: int) -> None:
    """``catalog``, then ``soft_labels``, with the fingerprints that the runner expects."""
    found = survey(config)
    workspace, digests = Workspace(config.workspace), FileDigests(config.workspace)
    rng = np.random.default_rng(0)
    weights = rng.lognormal(0, 0.8, num_classes)
    units = units_of("catalog", State(found, workspace, digests))
    tars = [unit.name for unit in units if unit.name.startswith("pool/")]
    sizes = dict(zip(tars, [ROWS_PER_TAR] * (len(tars) - 1) + [num_rows - ROWS_PER_TAR * (len(tars) - 1)], strict=True))
    parts = []
    for unit in units:
        rows = catalog_rows(unit, sizes.get(unit.name, 1), found.roots)
        parts.append(_write(workspace, "catalog", f"{unit.name}#0", unit, rows, found.roots))
    workspace.tables["catalog"].commit(parts)
    parts = []
    for unit in units_of("label", State(found, workspace, digests)):
        image_ids = pa.concat_tables([workspace.tables["catalog"].read(p) for p in _named(workspace, unit.name)])
        rows = label_rows(image_ids["image_id"], weights / weights.sum(), rng)
        parts.append(_write(workspace, "soft_labels", unit.name, unit, rows, found.roots))
        print(f"\r{len(parts)} of {len(tars)} parts drawn", end="", flush=True)
    workspace.tables["soft_labels"].commit(parts)
    print()


def _named(workspace: Workspace, name: str) -> list[object]:
    return [part for part in workspace.tables["catalog"].parts().values() if part.name == name]


def _write(workspace: Workspace, name: str, part: str, unit: Unit, rows: pa.Table, roots: dict[str, str]) -> object:
    return workspace.tables[name].write(rows, {"part": part}, unit.fingerprint, unit.settings, roots)


def catalog_rows(unit: Unit, count: int, roots: dict[str, str]) -> pa.Table:
    role, _, shard = unit.name.partition("/")
    ids = [f"{unit.name}/n{(7919 * i) % 30000000:08d}_{i}.JPEG" for i in range(count)]
    rows = {
        "image_id": ids,
        "role": [role] * count,
        "uri": [f"{roots[role]}/{shard}"] * count,
        "offset": 1536 + np.arange(count, dtype=np.int64) * 110_592,
        "size_bytes": np.full(count, 109_000, np.int64),
        "class_id": pa.array([0 if role == "labeled" else None] * count, pa.int32()),
        "stamp": ["12-1700000000000000000"] * count,
    }
    return pa.table(rows, schema=pa.schema([f for f in CATALOG.schema() if f.name != "part"]))


def label_rows(image_ids: pa.ChunkedArray, shares: npt.NDArray[np.float64], rng: np.random.Generator) -> pa.Table:
    """Soft labels as a teacher gives them on images it was not made for: some sure, most not, classes unequal."""
    count, num_classes = len(image_ids), len(shares)
    top1_class = rng.choice(num_classes, count, p=shares).astype(np.int32)
    top1_prob = np.clip(rng.beta(0.9, 1.1, count), 0.02, 0.99999)
    decay = rng.uniform(0.3, 0.9, count)
    second = np.minimum(top1_prob, (1 - top1_prob) * (1 - decay))
    probs = np.empty((count, NUM_KEPT))
    probs[:, 0], probs[:, 1:] = top1_prob, second[:, None] * decay[:, None] ** np.arange(NUM_KEPT - 1)
    # A stride over a cycle of prime length meets every class once: no class stands twice in a row.
    cycle = next(n for n in range(num_classes - 1, 1, -1) if all(n % d for d in range(2, int(n**0.5) + 1)))
    steps = (
        rng.integers(cycle, size=(count, 1)) + rng.integers(1, cycle, (count, 1)) * np.arange(NUM_KEPT - 1)
    ) % cycle
    class_ids = np.concatenate([top1_class[:, None], (top1_class[:, None] + 1 + steps) % num_classes], 1)
    kept = round_mantissa(probs.astype(np.float32))
    starts = np.arange(count + 1, dtype=np.int32) * NUM_KEPT
    box = {name: np.zeros(count, np.float32) for name in ("crop_left", "crop_top")}
    box |= {name: np.full(count, 500, np.float32) for name in ("crop_width", "crop_height")}
    rows = {
        "image_id": image_ids,
        "view": np.zeros(count, np.int32),
        "top1_class": top1_class,
        "top1_prob": top1_prob.astype(np.float32),
        "entropy": -(probs * np.log(probs)).sum(1).astype(np.float32),
        "class_ids": pa.ListArray.from_arrays(starts, class_ids.ravel().astype(np.int32)),
        "probs": pa.ListArray.from_arrays(starts, kept.ravel()),
        "tail_prob": np.maximum(1 - kept.sum(1, dtype=np.float64), 0).astype(np.float32),
        **box,
        "flipped": np.zeros(count, bool),
    }
    return pa.table(rows, schema=pa.schema([f for f in SOFT_LABELS.schema() if f.name != "part"]))


def _overrides(arguments: argparse.Namespace) -> list[str]:
    given = [f"select.per_class={arguments.per_class}", *arguments.set]
    return [word for override in given for word in ("--set", override)]


def _command(arguments: argparse.Namespace) -> str:
    return f"python benchmarks/selection.py --scratch FOLDER --rows {arguments.rows} --classes {arguments.classes}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=14_197_122)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="override a setting of the config, for select alone")
    parser.add_argument("--write", action="store_true", help="write the figures to RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
