"""Plan a run: which units of work it would do, and why. Changes nothing, starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.pipeline import stages
from ssld_pipeline.runner.planned import StagePlan, UnitPlan
from ssld_pipeline.runner.shapes.table import plan_stage
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.survey import FileDigests, Survey
from ssld_pipeline.stages.stage import Stage
from ssld_pipeline.store.workspace import Workspace

_ANY_PART = "*"


def plan_run(survey: Survey) -> list[StagePlan]:
    """The plans of all stages. Where an upstream stage has work to do, the effect on later stages is foreseen."""
    state = State(survey, Workspace(survey.config.workspace), FileDigests(survey.config.workspace))
    changed: dict[str, set[str]] = {}
    plans = []
    for stage in stages(survey.config):
        made = _foresee(stage, plan_stage(stage, state), changed, state)
        plans.append(made)
        if made.changes:
            changed.setdefault(stage.table or stage.name, set()).update(_changed_by(stage, made, changed))
    return plans


def _changed_by(stage: Stage, made: StagePlan, changed: Mapping[str, set[str]]) -> set[str]:
    """The parts whose images may get another result. A query that runs only for new parts changes their images; one
    that has changed itself, those of any part."""
    running = [unit for unit in made.units if unit.action in ("run", "remove")]
    names = {unit.name for unit in running}
    if not (stage.table and stage.per == "all"):
        return names
    if all(reason.startswith("waits for ") for unit in running for reason in unit.reasons):
        return names.union(*(changed.get(table, set()) for table in stage.reads))
    return names | {_ANY_PART}


def _foresee(stage: Stage, made: StagePlan, changed: dict[str, set[str]], state: State) -> StagePlan:
    if not made.enabled:
        return made
    artifacts = tuple(f"waits for {name}" for name in stage.artifacts if name in changed)
    units = [_foresee_unit(stage, unit, artifacts, changed, state) for unit in made.units]
    known = {_shard(u.name) for u in units}
    if stage.per == "part":
        inputs = state.survey.inputs_of(stage.roles(state.config))
        new = sorted(s for s in changed.get("catalog", ()) if s.split("/", 1)[0] in inputs and s not in known)
        units += [UnitPlan(name, "run", ("waits for catalog",)) for name in new]
    return StagePlan(made.stage, tuple(units))


def _foresee_unit(
    stage: Stage, unit: UnitPlan, artifacts: tuple[str, ...], changed: dict[str, set[str]], state: State
) -> UnitPlan:
    if unit.action == "remove":
        return unit
    waits, perhaps = list(artifacts), []
    for table in stage.tables_read(state.config):
        names = changed.get(table, set())
        if stage.per == "part":
            hit = any(_shard(n) == _shard(unit.name) for n in names)
            if not hit and _ANY_PART in names:
                perhaps.append(f"waits for {table} (only parts whose images change run)")
        elif table == "catalog":
            roles = stage.roles(state.config) if stage.per == "all" else (unit.name,)
            hit = any(n.split("/", 1)[0] in state.survey.inputs_of(roles) for n in names)
        else:
            hit = bool(names)
        if hit:
            waits.append(f"waits for {table}")
    trained_on = state.survey.inputs_of(TRAINED_ON_ROLES)
    if stage.is_guarded and any(name.split("/", 1)[0] in trained_on for name in changed.get("pairs", ())):
        perhaps.append("waits for guard_training (runs only if other images are left out)")
    if not waits and unit.action != "run" and perhaps:
        return replace(unit, action="run", reasons=tuple(perhaps), perhaps=True)
    if not waits:
        return unit
    reasons = [r for r in unit.reasons if not r.startswith(("input changed", "its input rows", "artifacts."))]
    return UnitPlan(unit.name, "run", tuple(dict.fromkeys([*reasons, *waits])), unit.unit, unit.committed)


def _shard(name: str) -> str:
    return name.rsplit("#", 1)[0]
