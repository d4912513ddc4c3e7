"""How fast one worker is at a stage, measured by the stage's own function on real images, in a scratch folder."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ssld_pipeline.errors import BadImage
from ssld_pipeline.runner.work import of_images
from ssld_pipeline.stages.stage import ArtifactStage, PartStage, Setup
from ssld_pipeline.store.fingerprints import Fingerprint
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.training.job import TrainJob

if TYPE_CHECKING:
    from ssld_pipeline.training.fit import Execution

_WARM_UP, _PROBE = 16, 32
_FEED_IMAGES = 96
_STEPS = {"cpu": 200, "cuda": 2000}
_LARGEST_BATCH = {"cpu": 64, "cuda": 1024}
_STEPS_PER_VALIDATION = 10


@dataclass(frozen=True)
class Speed:
    """``seconds`` by the clock and ``cpu_seconds`` of all threads for ``images``, by one worker that was open;
    ``start_s``: to import and open it. ``bytes_per_image``: written."""

    images: int
    seconds: float
    cpu_seconds: float
    start_s: float = 0.0
    bytes_per_image: float = 0.0

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    @property
    def core_s(self) -> float:
        """CPU seconds an image takes."""
        return self.cpu_seconds / self.images


@dataclass(frozen=True)
class TrainSpeed:
    """``train``: of the steps. ``validate``: of the protected images in between, None where none were seen."""

    train: Speed
    validate: Speed | None
    batch_size: int


@dataclass(frozen=True)
class Feed:
    """Seconds per image on one thread: to read it for the first time, to read it again, to decode it."""

    read_s: float
    read_again_s: float
    decode_s: float


def measure_feed(rows: pa.Table, short_side: int) -> Feed | None:
    """None where no image of the sample can be read."""
    from ssld_pipeline.inputs.read import ImageReader
    from ssld_pipeline.kernels.images import decode

    rows = rows.slice(0, _FEED_IMAGES)
    started = time.monotonic()
    found = [data for data in ImageReader().read_many(rows, 1) if not isinstance(data, BadImage)]
    read = time.monotonic()
    list(ImageReader().read_many(rows, 1))
    again = time.monotonic()
    for data in found:
        try:
            decode(data, min_short_side=short_side)
        except BadImage:
            continue
    end, count = time.monotonic(), len(found)
    return Feed((read - started) / count, (again - read) / count, (end - again) / count) if found else None


def measure_part(
    stage: PartStage,
    setup: Setup,
    rows: pa.Table,
    seconds: float,
    scratch: Workspace,
    kept: pa.Table | None = None,
) -> Speed | None:
    """Opened as a worker opens it, then given rows for about ``seconds``. None of no rows. ``kept``: rows of the output
    that are there already, and still hold."""
    if not rows.num_rows:
        return None
    started = time.monotonic()
    work = stage.open(setup)
    work(rows.slice(0, _WARM_UP))
    start_s, done = time.monotonic() - started, 0
    images, wall, cpu, results = 0, 0.0, 0.0, []
    count = _PROBE
    for _ in range(2):  # the first tells how many images fill the time
        piece = rows.slice(done, count)
        if not piece.num_rows:
            break
        began, cpu_began = time.monotonic(), time.process_time()
        results.append((work(piece) if kept is None else work(piece, of_images(kept, piece))).rows)
        wall, cpu, images = time.monotonic() - began, time.process_time() - cpu_began, piece.num_rows
        done += images
        count = max(_PROBE, int(images / wall * seconds))
    per_image = written_bytes(stage, pa.concat_tables(results), scratch) / done
    return Speed(images, wall, cpu, start_s, per_image)


def written_bytes(stage: PartStage, rows: pa.Table, scratch: Workspace) -> int:
    """Of these rows, which are committed as a part of the scratch workspace's table."""
    unit, table = {"part": f"{stage.name}#0"}, scratch.tables[stage.table]
    part = table.write(rows, unit, Fingerprint.of(unit, unit), {}, {})
    table.commit([part])
    return part.size_bytes


def measure_artifact(stage: ArtifactStage, setup: Setup, rows: pa.Table, folder: Path, images: int) -> Speed:
    """Builds it of ``rows`` in ``folder``, which makes ``images`` steps of the stage's work; first of a few rows, since
    the first use of a library takes seconds."""
    started = time.monotonic()
    stage.build(setup, rows.slice(0, _WARM_UP), _made(folder / "first"))
    began, cpu_began = time.monotonic(), time.process_time()
    stage.build(setup, rows, _made(folder / "whole"))
    wall, cpu = time.monotonic() - began, time.process_time() - cpu_began
    size = sum(f.stat().st_size for f in (folder / "whole").rglob("*") if f.is_file())
    return Speed(images, wall, cpu, began - started, size / max(1, images))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


class _Enough(Exception):
    """Ends a trial that has been watched for long enough."""


class _Watch:
    """Keeps when each row of metrics came."""

    def __init__(self, seconds: float, validates: bool) -> None:
        self.rows: list[tuple[float, float, dict[str, Any]]] = []
        self._seconds, self._validates = seconds, validates

    def __call__(self, row: dict[str, Any]) -> None:
        self.rows.append((time.monotonic(), time.process_time(), row))
        seen = not self._validates or any("validation_top1" in r for *_, r in self.rows)
        if seen and len(self.rows) > 2 and self.rows[-1][0] - self.rows[0][0] > self._seconds:
            raise _Enough


def measure_training(
    job: TrainJob, execution: Execution, num_workers: int, num_validated: int, seconds: float, folder: Path
) -> TrainSpeed:
    """Steps of the job's own loop with a rate of learning near 0; ``num_validated``: images in ``job.validation``."""
    from ssld_pipeline.training.data import left_out_of, read_rows
    from ssld_pipeline.training.fit import fit

    rows = read_rows(job.tables, job.roles, job.labelled_only, left_out_of(job)).num_rows
    batch_size = max(1, min(job.settings.batch_size // num_workers, _LARGEST_BATCH[execution.device], rows))
    norm_batch = min(job.settings.images_per_norm, batch_size)
    batch_size = batch_size // norm_batch * norm_batch
    steps = _STEPS[execution.device]
    changes = {"batch_size": batch_size, "steps": steps, "lr": 1e-9, "validations": steps // _STEPS_PER_VALIDATION}
    changes |= {"norm_batch": norm_batch, "max_reject_share": 1.0}  # it measures and refuses nothing
    execution = replace(execution, log_every_s=0)
    trial = replace(job, settings=job.settings.model_copy(update=changes))
    watch, started = _Watch(seconds, num_validated > 0), time.monotonic()
    with contextlib.suppress(_Enough):
        fit(trial, str(folder), fingerprint="calibration", execution=execution, report=watch)
    start_s = watch.rows[0][0] - started
    return TrainSpeed(_steps(watch, batch_size, start_s), _validations(watch, num_validated), batch_size)


def _steps(watch: _Watch, batch_size: int, start_s: float) -> Speed:
    """From the rows that follow a row of steps; the first step warms up."""
    pairs = list(zip(watch.rows, watch.rows[1:], strict=False))
    own = [(a, b) for a, b in pairs if "loss" in b[2] and "loss" in a[2]]
    images = sum(b[2]["step"] - a[2]["step"] for a, b in own) * batch_size
    return Speed(images, sum(b[0] - a[0] for a, b in own), sum(b[1] - a[1] for a, b in own), start_s)


def _validations(watch: _Watch, num_images: int) -> Speed | None:
    pairs = zip(watch.rows, watch.rows[1:], strict=False)
    own = [(a, b) for a, b in pairs if "validation_top1" in b[2]]
    if not own or not num_images:
        return None
    images = num_images * len(own)
    return Speed(images, sum(b[0] - a[0] for a, b in own), sum(b[1] - a[1] for a, b in own))
