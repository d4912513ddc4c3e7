"""One unit of work of a part stage, done wherever the runner likes: read, compute, write, hand back a receipt."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import CATALOG, REJECT_REASONS
from ssld_pipeline.pipeline import stage_named, stage_of
from ssld_pipeline.rejects import worst
from ssld_pipeline.runner.units import Unit, same_but_config
from ssld_pipeline.stages.stage import ArtifactStage, PartStage, Reject, Setup
from ssld_pipeline.store import files
from ssld_pipeline.store.damage import DamagedFile
from ssld_pipeline.store.fingerprints import Fingerprint
from ssld_pipeline.store.parquet_files import read_parquet
from ssld_pipeline.store.part import Part
from ssld_pipeline.store.tables import TableStore
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from ssld_pipeline.training.predictions import MapAhead

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Receipt:
    """What was written for a unit and awaits its commit. ``num_images``: those used and those lost together;
    ``examples``: a few rejects, those of whole archives first."""

    unit: str
    parts: tuple[Part, ...]
    rejects: Part | None
    num_images: int
    reasons: Mapping[str, int]
    seconds: float
    num_lost: int
    examples: tuple[Reject, ...]

    @property
    def num_rejects(self) -> int:
        return sum(self.reasons.values())

    @property
    def num_rows(self) -> int:
        return sum(p.num_rows for p in self.parts)


@dataclass(frozen=True)
class WorkerSpec:
    """All that a process anywhere needs to take part in a stage."""

    stage: str
    config: RunConfig
    classes: tuple[str, ...]
    roots: Mapping[str, str]
    num_threads: int
    device: str

    def deadline_s(self, unit: Unit) -> float:
        """After so long without an answer the unit's worker counts as lost: ``placement.part_deadline_s`` is for a part
        of the catalog, and a unit may be a whole input."""
        passes = stage_of(self.config, self.stage, PartStage).passes(self.config)
        num_parts = unit.num_rows * passes / self.config.catalog.images_per_part
        return self.config.placement.part_deadline_s * max(1.0, num_parts)

    def setup(self) -> Setup:
        """With the stage's artifacts on this machine's disk."""
        workspace = Workspace(self.config.workspace)
        cache = Path(self.config.placement.cache or Path(tempfile.gettempdir()) / "ssld-cache")
        folders = {}
        for name in stage_named(self.config, self.stage).artifacts:
            if stage_named(self.config, name).enabled(self.config) and (record := workspace.artifact(name).record()):
                folders[name] = workspace.artifact(name).fetch(record, cache)
        return Setup(self.config, self.classes, folders, self.num_threads, self.device)


class PartWorker:
    """Opens a stage once, then works on one unit after another."""

    def __init__(self, spec: WorkerSpec, map_ahead: MapAhead | None = None) -> None:
        import cv2

        cv2.setNumThreads(1)  # a worker has the cores it was given; OpenCV would take them all
        self._stage, self._roots = stage_of(spec.config, spec.stage, PartStage), spec.roots
        self._workspace = Workspace(spec.config.workspace)
        self._work = self._stage.open(replace(spec.setup(), map_ahead=map_ahead))

    def do(self, unit: Unit) -> Receipt:
        from ssld_pipeline.runner.suspects import without_deadly

        started = time.monotonic()
        rows = read_unit(unit)
        num_images = rows.num_rows
        rows, deadly = without_deadly(rows) if unit.careful and unit.files else (rows, [])
        kept = self._kept(unit, rows)
        result = self._work(rows) if kept is None else self._work(rows, kept)
        parts = write_parts(self._workspace, self._stage, unit, result.rows, self._roots)
        lost = deadly + result.rejects
        rejects = write_rejects(self._workspace, self._stage.name, unit, lost)
        if self._stage.per == "shard":
            num_images = result.rows.num_rows + sum(reject.num_lost for reject in lost)
        reasons = Counter(reject.reason for reject in lost)
        seconds, num_lost = time.monotonic() - started, sum(reject.num_lost for reject in lost)
        return Receipt(unit.name, parts, rejects, num_images, reasons, seconds, num_lost, worst(lost))

    def _kept(self, unit: Unit, rows: pa.Table) -> pa.Table | None:
        """Rows of the stale part that still hold: made alike but for settings that the stage knows how to judge, of the
        same catalog rows, and of images that are still wanted."""
        table = self._workspace.tables[self._stage.table]
        if unit.previous is None:
            return None
        try:
            if table.inputs_of(unit.previous).get("catalog") != unit.inputs["catalog"]:
                return None
            kept = rows_that_hold(self._stage, unit, table, table.read(unit.previous))
        except DamagedFile as damage:
            _log.warning("%s is damaged (%s), so none of its rows are kept", damage.uri, damage.why)
            return None
        return None if kept is None else of_images(kept, rows)


def rows_that_hold(stage: PartStage, unit: Unit, table: TableStore, rows: pa.Table) -> pa.Table | None:
    """Those of ``rows``, made with the settings of ``unit.previous``, that serve the unit as well; None where no row
    can."""
    if stage.keep is None or unit.previous is None:
        return None
    settings = table.settings_of(unit.previous)
    if not same_but_config(settings, unit.settings, stage.keeps_over):
        return None
    return stage.keep(rows, settings, unit.settings)


def of_images(rows: pa.Table, images: pa.Table) -> pa.Table:
    """The rows whose image_id is among those of ``images``; all rows of a table that is not about images."""
    if "image_id" not in rows.column_names:
        return rows
    return rows.filter(pc.is_in(rows["image_id"], images["image_id"].combine_chunks()))


def build_artifact(spec: WorkerSpec, unit: Unit) -> tuple[dict[str, Any], Part | None]:
    """Fill the artifact's folder; figures for people and the part of rejects, neither committed yet."""
    stage = stage_of(spec.config, spec.stage, ArtifactStage)
    workspace = Workspace(spec.config.workspace)
    target = workspace.artifact(stage.name).folder(unit.fingerprint)
    files.remove(target)  # what a killed build left
    with tempfile.TemporaryDirectory() as scratch:
        folder = files.local_path(target) if files.is_local(target) else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            figures, rejects = stage.build(spec.setup(), read_unit(unit), folder)
        finally:  # also of a check that refuses: its findings can be inspected
            if not files.is_local(target):
                for name in files.list_files(scratch):
                    files.copy(files.join(scratch, name), files.join(target, name))
    return figures, write_rejects(workspace, stage.name, unit, rejects)


def read_unit(unit: Unit) -> pa.Table:
    """The rows the unit is about: a shard's listing, or catalog rows without the excluded images."""
    if unit.listing is not None:
        return unit.listing
    if not unit.files:
        return CATALOG.schema().empty_table()
    rows = pa.concat_tables([read_parquet(uri) for uri in unit.files])
    if unit.excluded:
        rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], pa.array(unit.excluded, pa.string()))))
    return rows


def write_parts(
    workspace: Workspace, stage: PartStage, unit: Unit, rows: pa.Table, roots: Mapping[str, str]
) -> tuple[Part, ...]:
    """One part, or one per value of ``part`` where the stage names parts itself (a shard may hold several)."""
    table = workspace.tables[stage.table]
    if stage.per != "shard":
        of_part = {"part": unit.name}
        return (table.write(rows, of_part, unit.fingerprint, unit.settings, roots, unit.inputs, unit.notes),)
    names = sorted(set(rows["part"].to_pylist())) or [f"{unit.name}#0"]
    return tuple(
        table.write(rows.filter(pc.equal(rows["part"], name)), {"part": name}, unit.fingerprint, unit.settings, roots)
        for name in names
    )


def write_rejects(workspace: Workspace, stage: str, unit: Unit, rejects: list[Reject]) -> Part | None:
    return write_reject_rows(workspace, stage, unit.name, unit.fingerprint, unit.settings, rejects)


def write_reject_rows(
    workspace: Workspace,
    stage: str,
    part: str,
    fingerprint: Fingerprint,
    settings: Mapping[str, Any],
    rejects: list[Reject],
) -> Part | None:
    """One part of ``rejects``, or None when there is nothing to tell."""
    unknown = {r.reason for r in rejects} - REJECT_REASONS.keys()
    if unknown:
        raise ValueError(f"stage {stage} rejects with reasons that are not in the contract: {sorted(unknown)}")
    if not rejects:
        return None
    rows = pa.table(
        {
            "image_id": pa.array([r.image_id for r in rejects], pa.string()),
            "reason": pa.array([r.reason for r in rejects], pa.string()),
            "detail": pa.array([r.detail for r in rejects], pa.string()),
        }
    )
    return workspace.tables["rejects"].write(rows, {"stage": stage, "part": part}, fingerprint, settings, {})
