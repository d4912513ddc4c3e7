"""Train stages: one unit, one model, made by one process or by several together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssld_pipeline.config.graph import place_of
from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.pipeline import stage_of
from ssld_pipeline.runner.context import RunContext
from ssld_pipeline.runner.engine import Training
from ssld_pipeline.runner.planned import StagePlan, UnitPlan
from ssld_pipeline.runner.progress import Progress, StageReport
from ssld_pipeline.runner.shapes.shape import Shape, plan_artifact, whole
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import write_reject_rows
from ssld_pipeline.stages.guard_training import refuse_leaks
from ssld_pipeline.stages.stage import Reject, TrainStage
from ssld_pipeline.store import files
from ssld_pipeline.training.job import MODEL_FILES, TrainJob
from ssld_pipeline.training.schedule import num_steps, require_a_batch


def units(stage: TrainStage, state: State) -> list[Unit]:
    """Epochs mean another number of steps when the number of images changes, even where those images are not read."""
    steps = _outline(stage, state).settings.steps
    return [replace(unit, inputs={**unit.inputs, "steps": steps}) for unit in whole(stage, state)]


def plan(stage: TrainStage, state: State) -> tuple[UnitPlan, ...]:
    return tuple(plan_artifact(stage, unit, state) for unit in units(stage, state))


def bring(stage: TrainStage, plan: StagePlan, state: State, context: RunContext, report: StageReport) -> None:
    """Train the stage's model, and in the same pass those of the stages it is trained together with: only where the
    run was asked for them, and they are out of date."""
    if stage.name in context.trained:  # in the pass of another
        _tell(report, context.trained[stage.name])
        report.reused = 0
    members = _work(stage, plan.units)
    if not members:
        context.progress.started(plan, 0)
        return
    require_guarded(state)
    members |= _others(stage, state, context)
    started = time.monotonic()
    for member in members:
        state.check_train_data(member)
    shown = StagePlan(stage.name, tuple(plan.of("run")))
    context.progress.started(shown, _num_steps(stage, members[stage], state))
    trainings = [
        Training(context.spec(m), context.workspace.artifact(m.name).folder(unit.fingerprint), str(unit.fingerprint))
        for m, unit in members.items()
    ]
    metrics = context.engine.fit(trainings, state.train_data(), lambda row: _show(row, context.progress))
    for (member, unit), own in zip(members.items(), metrics, strict=True):
        _commit(member, unit, own, state, context, time.monotonic() - started)
        context.trained[member.name] = own
    _tell(report, metrics[0])


def _show(row: Mapping[str, Any], progress: Progress) -> None:
    """A row of metrics."""
    shown = {"loss": "loss", "validation_top1": "validation top-1"}
    note = ", ".join(f"{name} {row[key]:.4g}" for key, name in shown.items() if key in row)
    progress.reached(row["step"], note)


def _work(stage: TrainStage, planned: Sequence[UnitPlan]) -> dict[TrainStage, Unit]:
    """What is to be trained: nothing, or the one model."""
    units = [unit_plan.unit for unit_plan in planned if unit_plan.action == "run" and unit_plan.unit]
    return dict.fromkeys([stage], units[0]) if units else {}


def _others(stage: TrainStage, state: State, context: RunContext) -> dict[TrainStage, Unit]:
    found: dict[TrainStage, Unit] = {}
    for name in stage.together:
        if name != stage.name and name in context.chosen:
            other = stage_of(state.config, name, TrainStage)
            found |= _work(other, plan(other, state))
    return found


def _commit(
    stage: TrainStage, unit: Unit, metrics: dict[str, Any], state: State, context: RunContext, seconds: float
) -> None:
    """``metrics`` lose their rejects, which become a number."""
    bad = [Reject(r["image_id"], r["reason"], r["detail"]) for r in metrics.pop("rejects", [])]
    part = write_reject_rows(context.workspace, stage.name, unit.name, unit.fingerprint, unit.settings, bad)
    context.commit_rejects(stage.name, {unit.name: part})
    metrics["num_left_out"] = _num_left_out(stage, state)
    context.commit_artifact(stage, unit, dict(metrics), MODEL_FILES, seconds)
    metrics["num_rejects"] = len(bad)


def _tell(report: StageReport, metrics: dict[str, Any]) -> None:
    figures = dict(metrics)
    report.num_rejects = figures.pop("num_rejects")
    report.ran, report.figures, report.num_rows = 1, figures, figures.get("num_images", 0)


def require_guarded(state: State) -> None:
    """UserError where so many labelled images copy protected ones that training would leak them."""
    names = state.survey.inputs_of(TRAINED_ON_ROLES)
    num_images = {name: sum(part.num_rows for part in state.catalog_parts((name,))) for name in names}
    refuse_leaks(state.leaks, num_images, state.config)


def require_batches(stage: TrainStage, state: State) -> None:
    """UserError where the images cannot fill a batch. Asked as soon as they are counted, not when training starts,
    after days of labels. Of those that train reads there will be as many as are selected, at most all; what is left out
    is known later, and the training counts again."""
    roles = stage.roles(state.config) or ("labeled", "pool")
    num_images, recipe = sum(part.num_rows for part in state.catalog_parts(roles)), state.config.recipes()[stage.name]
    node = state.config.nodes.get(stage.name)
    labelled_only = node is None or node.learns_labels_only
    require_a_batch(stage.name, place_of(state.config, stage.name), recipe, roles, num_images, labelled_only)


def _outline(stage: TrainStage, state: State) -> TrainJob:
    """The stage's job with no artifact at hand: it tells what is trained, and cannot be carried out."""
    folders = {name: Path(files.join("artifacts", name)) for name in stage.artifacts if state.is_enabled(name)}
    return stage.job(state.setup(folders), state.train_data())


def _num_steps(stage: TrainStage, unit: Unit, state: State) -> int:
    job, data = _outline(stage, state), state.train_data()
    num_rows = unit.num_rows - _num_left_out(stage, state)
    return num_steps(job.settings, data.num_labeled + data.num_mined if "pool" in job.roles else num_rows)


def _num_left_out(stage: TrainStage, state: State) -> int:
    """Copies of protected images, and images that are held out."""
    held_out = state.workspace.artifact("hold_out").usable_record() if "hold_out" in stage.artifacts else None
    num_held_out = held_out.figures["num_left_out"] if held_out and state.is_enabled("hold_out") else 0
    return len(state.left_out_of(stage.roles(state.config) or ("labeled",))) + int(num_held_out)


TRAININGS = Shape(units, plan, bring)
