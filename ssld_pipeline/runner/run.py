"""Bring every stage up to date, in order: plan it, do what is missing, commit, go on."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from ssld_pipeline.errors import UserError
from ssld_pipeline.pipeline import STAGE_NAMES, STAGES, stage_named
from ssld_pipeline.rejects import are_too_many
from ssld_pipeline.runner.class_guard import accept_classes
from ssld_pipeline.runner.plan import StagePlan, UnitPlan, plan, plan_stage
from ssld_pipeline.runner.survey import FileDigests, Survey
from ssld_pipeline.runner.units import State, Unit, notes_of, outline
from ssld_pipeline.runner.work import Receipt, WorkerSpec, write_reject_rows
from ssld_pipeline.stages.networks import check_networks
from ssld_pipeline.stages.stage import (
    ArtifactStage,
    PartStage,
    QueryStage,
    Reject,
    Setup,
    Stage,
    TrainStage,
    tables_read,
)
from ssld_pipeline.store import files
from ssld_pipeline.store.fingerprints import Fingerprint
from ssld_pipeline.store.tables import Part
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.training.schedule import num_steps, require_a_batch

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.runner.engine import Engine

_COMMIT_EVERY_S = 2.0
_MODEL_FILES = ("student.safetensors", "config.json", "metrics.jsonl")
_ORPHAN_HOURS = 24  # what killed workers left behind; younger files may be another run's work in progress
# No stage without the check that belongs before it, even with --only.
_CHECKS = {"label": "check_teacher", "find_copies": "check_dedupe", "dedupe": "check_dedupe"}


@dataclass
class StageReport:
    """What a stage did. ``num_rows`` and ``num_rejects`` are of this run; ``figures`` are the stage's own."""

    stage: str
    ran: int = 0
    reused: int = 0
    removed: int = 0
    moved: int = 0
    num_rows: int = 0
    num_rejects: int = 0
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


class Progress(Protocol):
    """Who watches a run. ``started`` is told the number of images, or of training steps, ahead; 0 where unknown."""

    def started(self, plan: StagePlan, total: int) -> None: ...
    def advanced(self, amount: int) -> None: ...
    def reached(self, amount: int) -> None: ...
    def finished(self, report: StageReport) -> None: ...


def run(
    survey: Survey,
    engine: Callable[[], Engine],
    progress: Progress,
    *,
    only: Sequence[str] = (),
    until: str | None = None,
    new_classes: bool = False,
) -> list[StageReport]:
    """Do what ``plan`` announces, stage by stage. ``engine`` is called once, when the first work is found.

    ``only``: these stages, on what is committed upstream; none: all. ``new_classes``: what was labelled with another
    class list may be labelled again. Raises UserError for a stage that cannot go on;
    what was committed stays.
    """
    checked = {_CHECKS[name]: name for name in only if name in _CHECKS and _CHECKS[name] not in only}
    only = (*checked, *only)
    _check_names([*(("--only", name) for name in only), *([("--until", until)] if until else [])])
    last = STAGE_NAMES.index(until) if until else len(STAGES)
    accept_classes(Workspace(survey.config.workspace), survey.classes, new_classes)
    stages = [s for s in STAGES[: last + 1] if (not only or s.name in only) and s.enabled(survey.config)]
    runner = _Run(survey, engine, progress, bool(only), checked)
    runner.check(stages)
    reports = []
    for stage in stages:
        reports.append(runner.bring_up_to_date(stage))
        if stage.name == "catalog":
            _require_batches(runner.state(), stages)
    for table in runner.workspace.tables.values():
        table.num_orphans_removed(_ORPHAN_HOURS)
    return reports


def _require_batches(state: State, stages: Sequence[Stage]) -> None:
    """Asked as soon as the images are counted, not when training starts, after days of labels. Of those that train
    reads there will be as many as are selected, at most all."""
    for stage in stages:
        if isinstance(stage, TrainStage):
            roles = stage.roles(state.config) or ("labeled", "pool")
            num_images = sum(part.num_rows for part in state.catalog_parts(roles))
            require_a_batch(stage.name, state.config.trainings()[stage.name], roles, num_images)


def upstream_of(stage: Stage, config: RunConfig) -> list[Stage]:
    """What made the tables and artifacts that the stage reads, what that stands on, and so on, in the order of the
    pipeline. Models that are measured end it: they may be older than the tables."""
    writers = {other.table: other for other in STAGES if isinstance(other, PartStage | QueryStage)}
    found: set[str] = set()
    waiting = [stage]
    while waiting:
        current = waiting.pop()
        makers: list[Stage] = [writers[table] for table in tables_read(current, config)]
        makers += [stage_named(name) for name in current.artifacts]
        new = [maker for maker in makers if maker.name not in found and maker.enabled(config)]
        found |= {maker.name for maker in new}
        waiting += [maker for maker in new if isinstance(stage, TrainStage) or not isinstance(maker, TrainStage)]
    return [other for other in STAGES if other.name in found]


def _num_steps(stage: TrainStage, unit: Unit, state: State) -> int:
    job, data = outline(stage, state), state.train_data()
    return num_steps(job.settings, data.num_labeled + data.num_mined if "pool" in job.roles else unit.num_rows)


def _check_names(given: Sequence[tuple[str, str]]) -> None:
    for option, name in given:
        if name not in STAGE_NAMES:
            raise UserError(f"{option} {name}: no such stage; stages are {', '.join(STAGE_NAMES)}")


class _Run:
    def __init__(
        self, survey: Survey, engine: Callable[[], Engine], progress: Progress, only: bool, checked: Mapping[str, str]
    ) -> None:
        self.only, self.checked = only, checked
        self.survey, self.config, self.progress = survey, survey.config, progress
        self.workspace = Workspace(survey.config.workspace)
        self.digests = FileDigests(survey.config.workspace)
        self._make_engine = engine
        self._notes: dict[str, Any] = {}

    @cached_property
    def engine(self) -> Engine:
        return self._make_engine()

    def state(self) -> State:
        return State(self.survey, self.workspace, self.digests)

    def check(self, stages: Sequence[Stage]) -> None:
        """What would fail after days. Only where a network is going to be used: it takes seconds to load."""
        asked = [stage for stage in stages if stage.networks]
        changing = {made.stage for made in plan(self.survey) if made.changes} if asked else set()
        if any(stage.name in changing for stage in asked):
            check_networks(Setup(self.config, self.survey.classes, {}))
        training = [stage for stage in asked if stage.name in changing and isinstance(stage, TrainStage)]
        if training:
            self.engine.require_room(self._spec(training[0]))

    def bring_up_to_date(self, stage: Stage) -> StageReport:
        if self.only:
            self._prepare_upstream(stage)
        return self._bring(stage)

    def _bring(self, stage: Stage) -> StageReport:
        started = time.monotonic()
        state = self.state()
        plan = plan_stage(stage, state)
        self.digests.remember()
        report = StageReport(stage.name, reused=len(plan.of("reuse")))
        work = plan.of("run")
        if not (isinstance(stage, TrainStage) and work):
            self.progress.started(plan, sum(u.unit.num_rows for u in work if u.unit))
        self._notes = notes_of(stage, state)
        if isinstance(stage, PartStage):
            self._move(stage, plan.of("move"), report)
            self._do_parts(stage, plan, report)
            if stage.per == "shard":
                self._commit_listing_rejects(stage)
        elif isinstance(stage, QueryStage):
            self._query(stage, [*work, *plan.of("move")], state, report)
        elif isinstance(stage, ArtifactStage):
            self._build(stage, work, report)
        else:
            self._train(stage, work, state, report)
        if isinstance(stage, PartStage | QueryStage):
            self.workspace.record_roots(stage.table, self._roots_of_rows(stage))
            if self._notes:
                self.workspace.tables[stage.table].describe(self._notes)
        report.seconds = time.monotonic() - started
        self.progress.finished(report)
        return report

    def _roots_of_rows(self, stage: PartStage | QueryStage) -> dict[str, str]:
        """A query copies its addresses from the catalog, wherever that last saw the inputs."""
        return self.survey.roots if isinstance(stage, PartStage) else self.workspace.recorded_roots("catalog")

    def _prepare_upstream(self, stage: Stage) -> None:
        """UserError where what the stage stands on is not up to date: with --only nobody has brought it there. Of
        tables that is all the way back: an image that dedupe has come to remove must not be selected. Only addresses
        of inputs that lie elsewhere now are written anew here: it changes no content, and every read needs them."""
        for other in upstream_of(stage, self.config):
            made = plan_stage(other, self.state())
            if made.of("move") and not made.changes:
                self._bring(other)
            if made.changes:
                why = "; ".join(reason for reason, _ in made.reasons()[:2])
                asked = self.checked.get(stage.name, stage.name)
                raise UserError(
                    f"{asked} stands on {other.name}, which is not up to date ({why}). "
                    f"Bring it up to date first: ssld run CONFIG --until {asked}"
                )

    def _spec(self, stage: Stage) -> WorkerSpec:
        return WorkerSpec(stage.name, self.config, self.survey.classes, self.survey.roots, os.cpu_count() or 1, "cpu")

    # parts

    def _do_parts(self, stage: PartStage, plan: StagePlan, report: StageReport) -> None:
        stale = {u.name: u.committed for u in plan.units}
        gone = plan.of("remove")
        if gone:
            self._remove(stage, gone)
            report.removed = len(gone)
        units = [u.unit for u in plan.of("run") if u.unit]
        if not units:
            return
        refused: list[Receipt] = []
        batch: list[Receipt] = []
        last = time.monotonic()
        try:
            for receipt in self.engine.work(self._spec(stage), units):
                if receipt:
                    (refused if self._loses_too_much(stage, receipt) else batch).append(receipt)
                    self.progress.advanced(receipt.num_images)
                if time.monotonic() - last > _COMMIT_EVERY_S:
                    finished, batch, last = batch, [], time.monotonic()
                    self._commit(stage, finished, stale, report)
        finally:  # what is finished is kept, whatever ended the loop
            self._commit(stage, batch, stale, report)
        if refused:
            raise UserError(self._explain_refusal(stage, refused))

    def _commit(
        self, stage: PartStage, receipts: Sequence[Receipt], stale: dict[str, tuple[Part, ...]], report: StageReport
    ) -> None:
        """Rejects first: a crash in between leaves a part to be redone, which replaces them."""
        if not receipts:
            return
        self._commit_rejects(stage.name, {r.unit: r.rejects for r in receipts})
        removed = [part for r in receipts for part in stale.get(r.unit, ())]
        notes = {f"ssld.{name}": json.dumps(note, sort_keys=True) for name, note in self._notes.items()}
        self.workspace.tables[stage.table].commit(
            [p for r in receipts for p in r.parts], removed, {"ssld.stage": stage.name, **notes}
        )
        if self._notes and not report.ran:  # not at the end alone: who is killed has a table, too
            self.workspace.tables[stage.table].describe(self._notes)
        report.ran += len(receipts)
        report.num_rows += sum(r.num_rows for r in receipts)
        report.num_rejects += sum(r.num_rejects for r in receipts)

    def _commit_rejects(self, stage: str, parts: dict[str, Part | None]) -> None:
        table = self.workspace.tables["rejects"]
        committed = table.parts()
        stale = [committed[stage, name] for name in parts if (stage, name) in committed]
        table.commit([p for p in parts.values() if p], stale, {"ssld.stage": stage})

    def _remove(self, stage: PartStage, gone: Sequence[UnitPlan]) -> None:
        self._commit_rejects(stage.name, {u.name: None for u in gone})
        self.workspace.tables[stage.table].commit(
            [], [p for u in gone for p in u.committed], {"ssld.stage": stage.name}
        )

    def _commit_listing_rejects(self, stage: Stage) -> None:
        """What could not even be listed, one part of rejects per input, replaced when it changes."""
        committed = self.workspace.tables["rejects"].parts()
        for name, rejects in self.survey.listing_rejects.items():
            rows = [[r.image_id, r.reason, r.detail] for r in rejects]
            fingerprint = Fingerprint.of({"stage": stage.name, "input": name}, {"rejects": rows})
            present = committed.get((stage.name, name))
            if (present is None and rows) or (present is not None and present.fingerprint != fingerprint):
                part = write_reject_rows(self.workspace, stage.name, name, fingerprint, {}, list(rejects))
                self._commit_rejects(stage.name, {name: part})

    def _loses_too_much(self, stage: PartStage, receipt: Receipt) -> bool:
        """Where a protected archive breaks off, the images behind the break would guard nothing."""
        limit = getattr(self.config, stage.section).max_reject_share if stage.section else 1.0
        share = limit * receipt.num_images
        num_unread = receipt.reasons.get("unreadable", 0)
        if stage.per == "shard" and receipt.unit.split("/", 1)[0] in self.survey.inputs_of(self.config.dedupe.against):
            num_unread += receipt.reasons.get("truncated_archive", 0)
            share = min(share, 0) if num_unread else share
        return are_too_many(receipt.num_rejects, num_unread, share)

    def _explain_refusal(self, stage: PartStage, refused: Sequence[Receipt]) -> str:
        reasons: Counter[str] = Counter()
        for receipt in refused:
            reasons.update(receipt.reasons)
        worst = ", ".join(f"{r.unit} ({r.num_rejects} of {r.num_images})" for r in refused[:5])
        return (
            f"{stage.name}: {len(refused)} part(s) lost more images than {stage.section}.max_reject_share allows and "
            f"were not committed: {worst}. Reasons: {dict(reasons.most_common())}. "
            f"Mend the input, or raise {stage.section}.max_reject_share"
        )

    def _move(self, stage: PartStage, moved: Sequence[UnitPlan], report: StageReport) -> None:
        """The input lies elsewhere: write the ``uri`` column anew, keep fingerprint and content."""
        table = self.workspace.tables[stage.table]
        added, removed = [], []
        for part in (p for u in moved for p in u.committed):
            rows, settings, old = table.read(part), table.settings_of(part), table.roots_of(part)
            name = part.name.split("/", 1)[0]
            was, now = old[name], self.survey.roots[name]
            uris = [now + uri.removeprefix(was) if uri.startswith(was) else uri for uri in rows["uri"].to_pylist()]
            rows = rows.set_column(rows.column_names.index("uri"), "uri", pa.array(uris, pa.string()))
            unit = dict(zip(table.contract.unit, part.unit, strict=True))
            added.append(table.write(rows, unit, part.fingerprint, settings, self.survey.roots))
            removed.append(part)
        table.commit(added, removed, {"ssld.stage": stage.name, "ssld.moved": True})
        report.moved = len(moved)

    # whole tables, artifacts, models

    def _query(self, stage: QueryStage, work: Sequence[UnitPlan], state: State, report: StageReport) -> None:
        for planned in work:
            assert planned.unit is not None
            unit, table = planned.unit, self.workspace.tables[stage.table]
            with self.workspace.connect(*stage.reads) as connection:
                rows = stage.query(connection, self.config)
            report.figures = stage.figures(rows)
            part = table.write(rows, {"part": unit.name}, unit.fingerprint, unit.settings, self.survey.roots)
            note = {"ssld.stage": stage.name, "ssld.figures": json.dumps(report.figures)}
            table.commit([part], planned.committed, note)
            report.num_rows += part.num_rows
            report.ran += planned.action == "run"
            report.moved += planned.action == "move"

    def _build(self, stage: ArtifactStage, work: Sequence[UnitPlan], report: StageReport) -> None:
        for planned in work:
            assert planned.unit is not None
            started = time.monotonic()
            figures, rejects = self.engine.build(self._spec(stage), planned.unit)
            self._commit_rejects(stage.name, {planned.unit.name: rejects})
            report.num_rejects += rejects.num_rows if rejects else 0
            self._commit_artifact(stage, planned.unit, figures, (), time.monotonic() - started)
            report.ran, report.figures, report.num_rows = report.ran + 1, figures, planned.unit.num_rows

    def _train(self, stage: TrainStage, work: Sequence[UnitPlan], state: State, report: StageReport) -> None:
        for planned in work:
            assert planned.unit is not None
            started = time.monotonic()
            folder = self.workspace.artifact(stage.name).folder(planned.unit.fingerprint)
            self.progress.started(StagePlan(stage.name, (planned,)), _num_steps(stage, planned.unit, state))
            metrics = self.engine.fit(
                self._spec(stage), state.train_data(), folder, str(planned.unit.fingerprint), self.progress.reached
            )
            bad = [Reject(r["image_id"], r["reason"], r["detail"]) for r in metrics.pop("rejects", [])]
            unit = planned.unit
            part = write_reject_rows(self.workspace, stage.name, unit.name, unit.fingerprint, unit.settings, bad)
            self._commit_rejects(stage.name, {unit.name: part})
            self._commit_artifact(stage, unit, metrics, _MODEL_FILES, time.monotonic() - started)
            report.ran, report.figures, report.num_rejects = report.ran + 1, metrics, len(bad)
            report.num_rows = metrics.get("num_images", 0)

    def _commit_artifact(
        self, stage: Stage, unit: Unit, figures: dict[str, Any], published: tuple[str, ...], seconds: float
    ) -> None:
        artifact = self.workspace.artifact(stage.name)
        names = published or tuple(files.list_files(artifact.folder(unit.fingerprint)))
        artifact.commit(unit.fingerprint, unit.settings, figures, names=names, published=published, seconds=seconds)
        if not published:
            artifact.remove_others(unit.fingerprint)
