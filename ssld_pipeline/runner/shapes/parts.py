"""Part stages: a unit per shard, catalog part or input; done by any number of workers, committed as they finish."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from ssld_pipeline.errors import UserError
from ssld_pipeline.pipeline import stages
from ssld_pipeline.rejects import NOT_WHOLE, are_too_many, examples
from ssld_pipeline.runner.context import RunContext
from ssld_pipeline.runner.lossy_inputs import explain_gaps, guards
from ssld_pipeline.runner.planned import StagePlan, UnitPlan
from ssld_pipeline.runner.progress import StageReport
from ssld_pipeline.runner.shapes.shape import Shape, changes_of, needed_settings, plan_unit
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.units import Unit, notes_of, settings_payload, whole_unit
from ssld_pipeline.runner.work import Receipt, write_reject_rows
from ssld_pipeline.stages.stage import PartStage
from ssld_pipeline.store.damage import DamagedFile
from ssld_pipeline.store.fingerprints import Fingerprint, digest
from ssld_pipeline.store.part import Part
from ssld_pipeline.store.tables import TableStore

_COMMIT_EVERY_S = 2.0


def units(stage: PartStage, state: State) -> list[Unit]:
    settings = settings_payload(stage, state)
    if stage.per == "shard":
        return [
            Unit(s.name, settings, {"listing": s.digest}, num_rows=s.listing.num_rows, listing=s.to_table())
            for s in state.survey.shards
        ]
    roles, notes = stage.roles(state.config), notes_of(stage, state)
    if stage.per == "part":
        found = [_unit(stage, state, part, settings) for part in state.catalog_parts(roles)]
    else:
        found = [whole_unit(stage, state, settings, name, (name,)) for name in state.survey.inputs_of(roles)]
    return [replace(unit, notes=notes) for unit in found]


def _unit(stage: PartStage, state: State, part: Part, settings: Mapping[str, Any]) -> Unit:
    inputs: dict[str, Any] = {"catalog": part.content}
    excluded = state.excluded.get(part.name, ()) if "duplicates" in stage.reads and state.knows_excluded else ()
    if "duplicates" in stage.reads:
        inputs["excluded"] = digest(excluded)
    uris = tuple(state.workspace.tables["catalog"].uris([part]))
    return Unit(part.name, settings, inputs, uris, excluded, part.num_rows - len(excluded))


def plan(stage: PartStage, state: State) -> tuple[UnitPlan, ...]:
    committed = _committed_units(stage, state)
    plans = [_plan_unit(stage, unit, committed.pop(unit.name, []), state) for unit in units(stage, state)]
    unlisted = state.survey.unlisted()  # a folder that cannot be listed today is not gone
    gone = [
        UnitPlan(name, "remove", (_why_gone(name, state),), committed=tuple(parts))
        for name, parts in sorted(committed.items())
        if not name.startswith(unlisted) and not _holds_unasked(stage, name, parts, state)
    ]
    return (*plans, *gone)


def _committed_units(stage: PartStage, state: State) -> dict[str, list[Part]]:
    """Committed parts by the unit that wrote them; a shard of the catalog may have written several. Where two stages
    write the table, an input is of the stage whose roles have it, and one that is gone of the stage that wrote it."""
    found: dict[str, list[Part]] = defaultdict(list)
    writers = [s for s in stages(state.config) if s.table == stage.table]
    owners = {name: s.name for s in writers for name in state.survey.inputs_of(s.roles(state.config))}
    for part in state.workspace.tables[stage.table].parts().values():
        if len(writers) > 1 and _owner(stage, part, owners, state) != stage.name:
            continue
        found[part.name.rsplit("#", 1)[0] if stage.per == "shard" else part.name].append(part)
    return found


def _owner(stage: PartStage, part: Part, owners: Mapping[str, str], state: State) -> str:
    if owner := owners.get(part.name.split("/", 1)[0]):
        return owner
    try:
        return str(state.settings_of(stage.table, part).get("stage"))
    except DamagedFile:
        return stage.name


def _plan_unit(stage: PartStage, unit: Unit, committed: list[Part], state: State) -> UnitPlan:
    planned = plan_unit(stage, unit, committed, state)
    if planned.reasons == ("input changed",) and "duplicates" in stage.reads and not state.knows_excluded:
        return replace(planned, action="reuse", reasons=())  # dedupe runs first, and may exclude the same images
    if stage.keep and committed and planned.action == "run" and state.whole(stage.table, committed[:1]):
        return replace(planned, unit=_with_previous(stage, unit, committed[0], state))
    return planned


def _with_previous(stage: PartStage, unit: Unit, previous: Part, state: State) -> Unit:
    """The unit with a stale part whose rows may be kept, and with settings that hold for kept and new rows alike."""
    catalog = state.workspace.tables[stage.table].inputs_of(previous).get("catalog")
    if catalog != unit.inputs.get("catalog"):  # other images: no row will be kept
        return replace(unit, previous=previous)
    settings = needed_settings(stage, state.settings_of(stage.table, previous), unit, state)
    return replace(unit, settings=settings, previous=previous)


def _why_gone(name: str, state: State) -> str:
    return "not asked for, and of other settings" if name in state.catalog else "no longer in the input"


def _holds_unasked(stage: PartStage, name: str, committed: list[Part], state: State) -> bool:
    """Keep valid parts of images that these settings do not ask for, such as stored views of the labelled images where
    the teacher is online: another setting may ask for them again."""
    if stage.per != "part" or name not in state.catalog:
        return False
    unit = _unit(stage, state, state.catalog[name], settings_payload(stage, state))
    return not changes_of(stage, unit, committed, state)


def bring(stage: PartStage, plan: StagePlan, state: State, context: RunContext, report: StageReport) -> None:
    work = [u.unit for u in plan.of("run") if u.unit]
    if work and "duplicates" in stage.reads and not state.knows_excluded:
        context.workspace.connect("catalog", "duplicates", "rejects", is_checked=True)  # names the file
    context.progress.started(plan, sum(unit.num_rows for unit in work))
    run = _PartRun(stage, context, report, notes_of(stage, state))
    run.move(plan.of("move"))
    run.remove(plan.of("remove"))
    run.do(work, {u.name: u.committed for u in plan.units})
    if stage.per == "shard":
        run.commit_listing_rejects()
    context.workspace.record_roots(stage.table, context.survey.roots)
    if run.notes:
        run.table.describe(run.notes)


@dataclass(frozen=True)
class _PartRun:
    stage: PartStage
    context: RunContext
    report: StageReport
    notes: Mapping[str, Any]

    @property
    def table(self) -> TableStore:
        return self.context.workspace.tables[self.stage.table]

    def do(self, units: Sequence[Unit], stale: Mapping[str, tuple[Part, ...]]) -> None:
        if not units:
            return
        refused: list[Receipt] = []
        batch: list[Receipt] = []
        last = time.monotonic()
        try:
            for receipt in self.context.engine.work(self.context.spec(self.stage), units):
                if receipt:
                    (refused if self._loses_too_much(receipt) else batch).append(receipt)
                    self.context.progress.advanced(receipt.num_images)
                if time.monotonic() - last > _COMMIT_EVERY_S:
                    finished, batch, last = batch, [], time.monotonic()
                    self._commit(finished, stale)
        finally:  # finished parts are committed however the loop ends
            self._commit(batch, stale)
        if refused:
            raise UserError(self._explain_refusal(refused))

    def _commit(self, receipts: Sequence[Receipt], stale: Mapping[str, tuple[Part, ...]]) -> None:
        """Rejects first: a crash in between leaves a part to be redone, which replaces them."""
        if not receipts:
            return
        self.context.commit_rejects(self.stage.name, {r.unit: r.rejects for r in receipts})
        removed = [part for r in receipts for part in stale.get(r.unit, ())]
        notes = {f"ssld.{name}": json.dumps(note, sort_keys=True) for name, note in self.notes.items()}
        self.table.commit([p for r in receipts for p in r.parts], removed, {"ssld.stage": self.stage.name, **notes})
        if self.notes and not self.report.ran:  # not only at the end: a killed run leaves a table, too
            self.table.describe(self.notes)
        self.report.ran += len(receipts)
        self.report.num_rows += sum(r.num_rows for r in receipts)
        self.report.num_rejects += sum(r.num_rejects for r in receipts)

    def remove(self, gone: Sequence[UnitPlan]) -> None:
        if gone:
            self.context.commit_rejects(self.stage.name, {u.name: None for u in gone})
            self.table.commit([], [p for u in gone for p in u.committed], {"ssld.stage": self.stage.name})
        self.report.removed = len(gone)

    def move(self, moved: Sequence[UnitPlan]) -> None:
        """The input lies elsewhere: replace the ``uri`` column, keep fingerprint and content."""
        table, roots = self.table, self.context.survey.roots
        added, removed = [], []
        for part in (p for u in moved for p in u.committed):
            rows, settings, old = table.read(part), table.settings_of(part), table.roots_of(part)
            name = part.name.split("/", 1)[0]
            was, now = old[name], roots[name]
            uris = [now + uri.removeprefix(was) if uri.startswith(was) else uri for uri in rows["uri"].to_pylist()]
            rows = rows.set_column(rows.column_names.index("uri"), "uri", pa.array(uris, pa.string()))
            unit = dict(zip(table.contract.unit, part.unit, strict=True))
            added.append(table.write(rows, unit, part.fingerprint, settings, roots))
            removed.append(part)
        table.commit(added, removed, {"ssld.stage": self.stage.name, "ssld.moved": True})
        self.report.moved = len(moved)

    def commit_listing_rejects(self) -> None:
        """What could not even be listed, one part of rejects per input, replaced when it changes."""
        workspace, stage = self.context.workspace, self.stage.name
        table = workspace.tables["rejects"]
        committed = table.parts()
        for name, rejects in self.context.survey.listing_rejects.items():
            rows = [[r.image_id, r.reason, r.detail] for r in rejects]
            fingerprint = Fingerprint.of({"stage": stage, "input": name}, {"rejects": rows})
            present = committed.get((stage, name))
            is_stale = present is not None and (present.fingerprint != fingerprint or table.unreadable([present]))
            if is_stale or (present is None and rows):
                part = write_reject_rows(workspace, stage, name, fingerprint, {}, list(rejects))
                self.context.commit_rejects(stage, {name: part})

    def _loses_too_much(self, receipt: Receipt) -> bool:
        limit = self._limit()
        num_unread = receipt.reasons.get("unreadable", 0) + receipt.reasons.get("nested_archive", 0)
        if not limit:
            num_unread += receipt.reasons.get("truncated_archive", 0)
        too_many = are_too_many(receipt.num_lost, num_unread, limit * receipt.num_images)
        return too_many or self._breaks_a_guard(receipt)

    def _limit(self) -> float:
        section = self.stage.section
        return float(getattr(self.context.config, section).max_reject_share) if section else 1.0

    def _breaks_a_guard(self, receipt: Receipt) -> bool:
        """Where a protected archive is not whole, the images that cannot be read would guard nothing."""
        is_guard = self.stage.per == "shard" and receipt.unit.split("/", 1)[0] in guards(self.context.config)
        return is_guard and any(reason in receipt.reasons for reason in NOT_WHOLE)

    def _explain_refusal(self, refused: Sequence[Receipt]) -> str:
        broken = [receipt for receipt in refused if self._breaks_a_guard(receipt)]
        if broken:
            return explain_gaps([example for receipt in broken for example in receipt.examples])
        reasons: Counter[str] = Counter()
        for receipt in refused:
            reasons.update({k: n for k, n in receipt.reasons.items() if k != "companion"})
        worst = ", ".join(f"{r.unit} ({r.num_lost} of {r.num_images})" for r in refused[:5])
        limit = f"{self.stage.section}.max_reject_share"
        return (
            f"{self.stage.name}: {len(refused)} part(s) lost more images than {limit} ({self._limit():g}) allows and "
            f"were not committed: {worst}. Reasons: {dict(reasons.most_common())}. The first: "
            f"{examples(refused[0].examples[:1])}. Repair the input, or raise {limit}"
        )


PARTS = Shape(units, plan, bring)
