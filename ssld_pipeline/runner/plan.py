"""What a run would do, and why: the units of work beside what is committed. Touches nothing, starts nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ssld_pipeline.pipeline import STAGES
from ssld_pipeline.runner.class_guard import explain_classes
from ssld_pipeline.runner.survey import FileDigests, Survey
from ssld_pipeline.runner.units import State, Unit, committed_units, part_unit, same_but_config, units_of
from ssld_pipeline.stages.stage import ArtifactStage, PartStage, QueryStage, Stage, TrainStage, tables_read
from ssld_pipeline.store.fingerprints import explain_change
from ssld_pipeline.store.tables import Part
from ssld_pipeline.store.workspace import Workspace

_ANY_PART = "*"

Action = Literal["run", "reuse", "remove", "move"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True)
class UnitPlan:
    """``unit`` is None for a part to remove, and for one that upstream has yet to make. ``committed``: what is there.

    move: the input lies elsewhere now but is the same; only the ``uri`` column is written anew. ``perhaps``: it runs
    only if one of its images gets another verdict upstream, which is not known before.
    """

    name: str
    action: Action
    reasons: tuple[str, ...] = ()
    unit: Unit | None = None
    committed: tuple[Part, ...] = ()
    perhaps: bool = False


@dataclass(frozen=True)
class StagePlan:
    stage: str
    units: tuple[UnitPlan, ...] = ()
    enabled: bool = True

    def of(self, action: Action) -> list[UnitPlan]:
        return [u for u in self.units if u.action == action]

    @property
    def changes(self) -> bool:
        return any(u.action in ("run", "remove") for u in self.units)

    def reasons(self) -> list[tuple[str, int]]:
        """Why units run or go, with the number of units, most first."""
        return Counter("; ".join(u.reasons) for u in self.units if u.action in ("run", "remove")).most_common()

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "enabled": self.enabled,
            "run": len(self.of("run")),
            "reuse": len(self.of("reuse")),
            "remove": len(self.of("remove")),
            "move": len(self.of("move")),
            "parts": [{"part": u.name, "action": u.action, "reasons": list(u.reasons)} for u in self.units],
        }


def plan_stage(stage: Stage, state: State) -> StagePlan:
    """The plan of one stage, given that everything upstream of it is up to date."""
    if not stage.enabled(state.config):
        return StagePlan(stage.name, enabled=False)
    units = units_of(stage, state)
    if isinstance(stage, ArtifactStage | TrainStage):
        return StagePlan(stage.name, tuple(_plan_artifact(stage, unit, state) for unit in units))
    committed = committed_units(stage, state.workspace)
    plans = [_plan_unit(stage, unit, committed.pop(unit.name, []), state) for unit in units]
    unlisted = state.survey.unlisted()  # a folder that cannot be listed today is not gone
    gone = [
        UnitPlan(name, "remove", (_why_gone(name, state),), committed=tuple(parts))
        for name, parts in sorted(committed.items())
        if not name.startswith(unlisted) and not _holds_unasked(stage, name, parts, state)
    ]
    return StagePlan(stage.name, tuple(plans + gone))


def _why_gone(name: str, state: State) -> str:
    return "not asked for, and of other settings" if name in state.catalog else "no longer in the input"


def _holds_unasked(stage: PartStage | QueryStage, name: str, committed: list[Part], state: State) -> bool:
    """Of an image that is still there but not asked for by these settings, such as stored views of the labelled images
    beside an online teacher: what holds is kept for when it is asked for again."""
    if not (isinstance(stage, PartStage) and stage.per == "part" and name in state.catalog):
        return False
    return not _changes(stage, part_unit(stage, state, state.catalog[name]), committed, state)


def _plan_artifact(stage: Stage, unit: Unit, state: State) -> UnitPlan:
    record = state.workspace.artifact(stage.name).record()
    if record is None:
        return UnitPlan(unit.name, "run", ("not made yet",), unit)
    if record.fingerprint == unit.fingerprint:
        return UnitPlan(unit.name, "reuse", (), unit)
    changes = _explain(stage, record.settings, unit, state)
    if record.fingerprint.inputs != unit.fingerprint.inputs:
        changes.append("its input rows changed")
    return UnitPlan(unit.name, "run", tuple(changes), unit)


def _plan_unit(stage: PartStage | QueryStage, unit: Unit, committed: list[Part], state: State) -> UnitPlan:
    if not committed:
        return UnitPlan(unit.name, "run", ("part missing",), unit)
    changes = _changes(stage, unit, committed, state)
    if changes:
        if isinstance(stage, PartStage) and stage.keep:
            unit = replace(unit, previous=committed[0])
        return UnitPlan(unit.name, "run", tuple(changes), unit, tuple(committed))
    if _lies_elsewhere(stage, unit, state):
        return UnitPlan(unit.name, "move", ("the input lies elsewhere",), unit, tuple(committed))
    return UnitPlan(unit.name, "reuse", (), unit, tuple(committed))


def _changes(stage: PartStage | QueryStage, unit: Unit, committed: list[Part], state: State) -> list[str]:
    wanted, changes = unit.fingerprint, []
    stale = next((p for p in committed if p.fingerprint.settings != wanted.settings), None)
    if stale and not _covers(stage, settings := state.settings_of(stage.table, stale), unit.settings):
        changes += _explain(stage, settings, unit, state)
    if any(p.fingerprint.inputs != wanted.inputs for p in committed):
        changes.append("input changed")
    return changes


def _explain(stage: Stage, committed: Mapping[str, Any], unit: Unit, state: State) -> list[str]:
    """What differs from the settings something was made with; of class lists what a person can read."""
    lines = explain_change(committed, dict(unit.settings))
    if "classes" not in committed or committed["classes"] == unit.settings.get("classes"):
        return lines
    text = explain_classes(state.class_lists, committed["classes"], state.survey.classes)
    if isinstance(stage, PartStage) and stage.table == "soft_labels":
        accepted = state.class_lists.accepted() == unit.settings["classes"]
        text += "" if accepted else "; refused without: ssld run CONFIG --new-classes"
    return [f"classes: {text}" if line.startswith("classes: ") else line for line in lines]


def _covers(stage: PartStage | QueryStage, committed: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a part made with other settings serves as well."""
    return (
        isinstance(stage, PartStage)
        and same_but_config(committed, wanted)
        and stage.covers(committed["config"], wanted["config"])
    )


def _lies_elsewhere(stage: PartStage | QueryStage, unit: Unit, state: State) -> bool:
    """Whether the ``uri`` values of what is committed begin with a root that is no longer the input's."""
    if "uri" not in state.workspace.tables[stage.table].contract.schema().names:
        return False
    recorded = state.workspace.recorded_roots(stage.table)
    own = unit.name.split("/", 1)[0]
    return any(
        recorded.get(name, root) != root
        for name, root in state.survey.roots.items()
        if isinstance(stage, QueryStage) or name == own
    )


def plan(survey: Survey) -> list[StagePlan]:
    """The plans of all stages. Where an upstream stage has work to do, what stands downstream of it is foreseen."""
    state = State(survey, Workspace(survey.config.workspace), FileDigests(survey.config.workspace))
    changed: dict[str, set[str]] = {}
    plans = []
    for stage in STAGES:
        made = _foresee(stage, plan_stage(stage, state), changed, state)
        plans.append(made)
        if made.changes:
            key = stage.table if isinstance(stage, PartStage | QueryStage) else stage.name
            changed[key] = _changed_by(stage, made, changed)
    return plans


def _changed_by(stage: Stage, made: StagePlan, changed: Mapping[str, set[str]]) -> set[str]:
    """The parts whose images may get another result. A query that runs for new parts alone tells about their images;
    one that has changed itself, about those of any part."""
    running = [unit for unit in made.units if unit.action in ("run", "remove")]
    names = {unit.name for unit in running}
    if not isinstance(stage, QueryStage):
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
    if isinstance(stage, PartStage) and stage.per == "part":
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
    for table in tables_read(stage, state.config):
        names = changed.get(table, set())
        if isinstance(stage, PartStage) and stage.per == "part":
            hit = any(_shard(n) == _shard(unit.name) for n in names)
            if not hit and _ANY_PART in names:
                perhaps.append(f"waits for {table} (only parts whose images change run)")
        elif table == "catalog":
            roles = (unit.name,) if isinstance(stage, PartStage) else stage.roles(state.config)
            hit = any(n.split("/", 1)[0] in state.survey.inputs_of(roles) for n in names)
        else:
            hit = bool(names)
        if hit:
            waits.append(f"waits for {table}")
    if not waits and unit.action != "run" and perhaps:
        return replace(unit, action="run", reasons=tuple(perhaps), perhaps=True)
    if not waits:
        return unit
    reasons = [r for r in unit.reasons if not r.startswith(("input changed", "its input rows", "artifacts."))]
    return UnitPlan(unit.name, "run", tuple(dict.fromkeys([*reasons, *waits])), unit.unit, unit.committed)


def _shard(name: str) -> str:
    return name.rsplit("#", 1)[0]
