"""What the runner must know of a shape of stage, and how two shapes that write tables plan a unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ssld_pipeline.runner.class_guard import explain_classes
from ssld_pipeline.runner.context import RunContext
from ssld_pipeline.runner.planned import StagePlan, UnitPlan
from ssld_pipeline.runner.progress import StageReport
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.units import Unit, same_but_config, settings_payload, whole_unit
from ssld_pipeline.stages.earlier_models import REPAIRED
from ssld_pipeline.stages.stage import Stage, TrainStage
from ssld_pipeline.store.artifacts import Record
from ssld_pipeline.store.damage import DamagedFile
from ssld_pipeline.store.fingerprints import Fingerprint, digest, explain_change
from ssld_pipeline.store.part import Part
from ssld_pipeline.training.job import MODEL_FILE


@dataclass(frozen=True)
class Shape:
    """``units``: all work of the stage, in the order of names. ``plan``: compared with what is committed, given that
    everything upstream is up to date. ``bring``: does what is planned and commits it; fills the report."""

    units: Callable[[Any, State], list[Unit]]
    plan: Callable[[Any, State], tuple[UnitPlan, ...]]
    bring: Callable[[Any, StagePlan, State, RunContext, StageReport], None]


def whole(stage: Stage, state: State) -> list[Unit]:
    """All at once."""
    roles = stage.roles(state.config)
    unit = whole_unit(stage, state, settings_payload(stage, state), stage.name, roles)
    left_out = state.left_out_of(roles) if stage.is_guarded else ()
    if not left_out:
        return [unit]
    return [replace(unit, inputs={**unit.inputs, "left_out": digest(left_out)}, excluded=left_out)]


def plan_unit(stage: Stage, unit: Unit, committed: list[Part], state: State) -> UnitPlan:
    """Of a stage that writes a table."""
    if not committed:
        return UnitPlan(unit.name, "run", ("part missing",), unit)
    if lost := state.lost(stage, unit.name, committed):
        return UnitPlan(unit.name, "run", (lost,), unit, tuple(committed))
    if changes := changes_of(stage, unit, committed, state):
        return UnitPlan(unit.name, "run", tuple(changes), unit, tuple(committed))
    if _is_moved(stage, unit, state):
        return UnitPlan(unit.name, "move", ("the input lies elsewhere",), unit, tuple(committed))
    return UnitPlan(unit.name, "reuse", (), unit, tuple(committed))


def plan_artifact(stage: Stage, unit: Unit, state: State) -> UnitPlan:
    """Of a stage that writes a folder."""
    artifact = state.workspace.artifact(stage.name)
    try:
        record = artifact.record()
    except DamagedFile as damage:
        return UnitPlan(unit.name, "run", (f"{damage.uri}: {damage.why}",), unit)
    if record is None:
        return UnitPlan(unit.name, "run", ("not made yet",), unit)
    translated = _as_recorded_today(stage, record, state)
    settings = translated or record.settings
    if Fingerprint(digest(settings), record.fingerprint.inputs) == unit.fingerprint:
        lost = artifact.lost(record) or state.lost(stage, unit.name, ())
        return UnitPlan(unit.name, "run", (lost,), unit) if lost else UnitPlan(unit.name, "reuse", (), unit)
    changes = _explain(stage, settings, unit, state, is_earlier=translated is not None)
    if record.fingerprint.inputs != unit.fingerprint.inputs:
        changes.append("its input rows changed")
    return UnitPlan(unit.name, "run", tuple(changes), unit)


def _as_recorded_today(stage: Stage, record: Record, state: State) -> Mapping[str, Any] | None:
    """The settings of a model of an earlier version, as this one would have recorded them; None for any other."""
    if not isinstance(stage, TrainStage):
        return None
    settings = stage.modernise(state.config, len(state.survey.classes), record.settings, record.figures)
    if settings is None:
        return None
    artifacts = {name: _weights_of(name, content, state) for name, content in settings.get("artifacts", {}).items()}
    return {**settings, "artifacts": artifacts} if artifacts else settings


def _weights_of(name: str, content: str, state: State) -> str:
    """The digest of a model's weights in place of that of all its files, if it is still that model."""
    record = state.workspace.artifact(name).usable_record()
    is_that = name in state.config.nodes and record and record.content == content
    return record.files[MODEL_FILE] if record and is_that else content


def changes_of(stage: Stage, unit: Unit, committed: list[Part], state: State) -> list[str]:
    """Why the committed parts do not serve the unit; empty where they do."""
    assert stage.table is not None
    wanted, changes = unit.fingerprint, []
    stale = next((p for p in committed if p.fingerprint.settings != wanted.settings), None)
    if stale:
        try:
            settings = state.settings_of(stage.table, stale)
        except DamagedFile as damage:
            return [f"{damage.uri}: {damage.why}"]
        if not _covers(stage, settings, needed_settings(stage, settings, unit, state)):
            changes += _explain(stage, settings, unit, state)
    if any(p.fingerprint.inputs != wanted.inputs for p in committed):
        changes.append("input changed")
    return changes


def needed_settings(stage: Stage, committed: Mapping[str, Any], unit: Unit, state: State) -> dict[str, Any]:
    """The payload of ``unit`` as far as the config needs it of what was made with the payload ``committed``."""
    wanted = dict(unit.settings)
    if "config" in committed and "config" in wanted:
        wanted["config"] = stage.needed(committed["config"], wanted["config"], state.config)
    return wanted


def _covers(stage: Stage, committed: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if not same_but_config(committed, wanted):
        return False
    return bool(committed["config"] == wanted["config"]) or stage.covers(committed["config"], wanted["config"])


def _explain(
    stage: Stage, committed: Mapping[str, Any], unit: Unit, state: State, is_earlier: bool = False
) -> list[str]:
    """What differs from the settings something was made with; of class lists what a person can read. ``is_earlier``:
    by an earlier version of this program."""
    lines = explain_change(committed, dict(unit.settings))
    if "version" in committed and committed["version"] != unit.settings.get("version"):
        lines = [line for line in lines if not line.startswith("config.")]  # of another form altogether
    if is_earlier:
        lines = [REPAIRED.get(line.split(": ", 1)[0], line) for line in lines]
    node = state.config.nodes.get(stage.name) if is_earlier else None
    if node and "objective" not in node.model_fields_set and any("training.objective" in line for line in lines):
        lines.append(f"the default objective is {node.objective[0].name} now; `loss: js` keeps the former one")
    for setting, reason in stage.reasons(state.config).items():
        named = [line.startswith(f"config.{setting}: ") for line in lines]
        lines = [reason if is_it else line for is_it, line in zip(named, lines, strict=True) if reason or not is_it]
    if "classes" not in committed or committed["classes"] == unit.settings.get("classes"):
        return lines
    text = explain_classes(state.class_lists, committed["classes"], state.survey.classes)
    if stage.table == "soft_labels":
        accepted = state.class_lists.accepted() == unit.settings["classes"]
        text += "" if accepted else "; refused without: ssld run CONFIG --new-classes"
    return [f"classes: {text}" if line.startswith("classes: ") else line for line in lines]


def _is_moved(stage: Stage, unit: Unit, state: State) -> bool:
    """Whether the ``uri`` values of what is committed begin with a root that is no longer the input's."""
    assert stage.table is not None
    if "uri" not in state.workspace.tables[stage.table].contract.schema().names:
        return False
    recorded = state.recorded_roots(stage.table)
    own = unit.name.split("/", 1)[0]
    return any(
        recorded.get(name, root) != root
        for name, root in state.survey.roots.items()
        if stage.per == "all" or name == own
    )
