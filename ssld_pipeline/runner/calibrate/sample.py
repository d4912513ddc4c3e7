"""A seeded sample of the inputs as catalog rows, and how many images each shard holds; nothing is written."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ssld_pipeline.contracts import CATALOG
from ssld_pipeline.pipeline import stage_of
from ssld_pipeline.stages.stage import PartResult, PartStage, Setup

if TYPE_CHECKING:
    from ssld_pipeline.inputs.shard import Shard
    from ssld_pipeline.runner.state import State

_MOST_SHARDS = 8
_ROWS = {"pool": 2000, "labeled": 400, "protected": 400, "teacher": 400}
_BLOCK = 16
_ONE_FILE_EACH = ("folder", "list")


@dataclass(frozen=True)
class Scan:
    """What was scanned for the sample, by one worker. ``rows``: its catalog rows, as they would be written."""

    rows: pa.Table
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Sample:
    """``rows``: input name -> catalog rows. ``images``: shard name -> images. ``estimated``: the inputs some of whose
    shards were not counted but weighed, by the images per byte of those that were."""

    rows: Mapping[str, pa.Table]
    images: Mapping[str, float]
    estimated: tuple[str, ...]
    scan: Scan

    def of(self, names: Sequence[str]) -> pa.Table:
        """The rows of these inputs, a block of each in turn: whoever takes the first ones has some of all."""
        own = [self.rows[name] for name in names if name in self.rows]
        places = [(np.arange(len(rows)) // _BLOCK + 1) * _BLOCK / max(1, len(rows)) for rows in own]
        order = np.argsort(np.concatenate([np.zeros(0), *places]), kind="stable")
        return pa.concat_tables([CATALOG.schema().empty_table(), *own]).take(order)

    def num_images(self, names: Sequence[str]) -> int:
        """Images of these inputs."""
        return round(sum(count for shard, count in self.images.items() if shard.split("/", 1)[0] in names))


def draw_sample(state: State, setup: Setup, seed: int, seconds: float) -> Sample:
    """Scans shards of each input in an order drawn from ``seed`` until there are rows enough or time is up."""
    stage = stage_of(setup.config, "catalog", PartStage)
    work, scans, counted, rows = stage.open(setup), [], _committed(state), {}
    by_input: dict[str, list[Shard]] = {}
    for shard in state.survey.shards:
        by_input.setdefault(shard.input_name, []).append(shard)
    for name, shards in by_input.items():
        drawn = random.Random(f"{seed} {name}").sample(shards, min(_MOST_SHARDS, len(shards)))
        found = _scan(work, drawn, _ROWS[shards[0].role], seconds / len(by_input))
        counted |= {shard.name: float(scan.rows.num_rows) for shard, scan in found}
        scans += [scan for _, scan in found]
        rows[name] = _thin([scan.rows for _, scan in found], _ROWS[shards[0].role], seed)
    images = {s.name: n for own in by_input.values() for s, n in _weighed(own, counted).items()}
    estimated = tuple(n for n, own in by_input.items() if any(_is_packed(s) and s.name not in counted for s in own))
    return Sample(rows, images, estimated, _joined(scans))


def _committed(state: State) -> dict[str, float]:
    """Images of the shards that are catalogued already."""
    counted: dict[str, float] = {}
    for part in state.catalog.values():
        shard = part.name.rsplit("#", 1)[0]
        counted[shard] = counted.get(shard, 0) + part.num_rows
    return counted


def _scan(
    work: Callable[[pa.Table], PartResult], shards: Sequence[Shard], wanted: int, seconds: float
) -> list[tuple[Shard, Scan]]:
    """At least one shard."""
    found: list[tuple[Shard, Scan]] = []
    first = time.monotonic()
    for shard in shards:
        started, cpu = time.monotonic(), time.process_time()
        rows = work(shard.to_table()).rows
        found.append((shard, Scan(rows, time.monotonic() - started, time.process_time() - cpu)))
        if sum(scan.rows.num_rows for _, scan in found) >= wanted or time.monotonic() - first > seconds:
            break
    return found


def _thin(rows: Sequence[pa.Table], wanted: int, seed: int) -> pa.Table:
    """``wanted`` of the rows, drawn, in the order of image_id."""
    table = pa.concat_tables([CATALOG.schema().empty_table(), *(r.select(CATALOG.schema().names) for r in rows)])
    chosen = np.random.default_rng(seed).permutation(table.num_rows)[:wanted]
    return table.take(np.sort(chosen)).sort_by("image_id").combine_chunks()


def _is_packed(shard: Shard) -> bool:
    return shard.format not in _ONE_FILE_EACH


def _weighed(shards: Sequence[Shard], counted: Mapping[str, float]) -> dict[Shard, float]:
    """Images of each shard of an input: counted, or a file each, or by its bytes."""
    sizes = {s.name: float(sum(s.listing["size_bytes"].to_pylist())) for s in shards if _is_packed(s)}
    known = [name for name in sizes if name in counted]
    per_byte = sum(counted[n] for n in known) / max(1.0, sum(sizes[n] for n in known))
    return {s: counted.get(s.name, sizes[s.name] * per_byte if _is_packed(s) else s.listing.num_rows) for s in shards}


def _joined(scans: Sequence[Scan]) -> Scan:
    rows = pa.concat_tables([CATALOG.schema().empty_table(), *(s.rows.select(CATALOG.schema().names) for s in scans)])
    return Scan(rows, sum(s.seconds for s in scans), sum(s.cpu_seconds for s in scans))
