"""Train stages: one unit, one model, made by one process or by several together."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.runner.context import RunContext
from ssld_pipeline.runner.planned import StagePlan, UnitPlan
from ssld_pipeline.runner.progress import StageReport
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
    work = [planned for planned in plan.of("run") if planned.unit]
    if work:
        require_guarded(state)
    if not work:
        context.progress.started(plan, 0)
    for planned in work:
        unit = planned.unit
        assert unit is not None
        started = time.monotonic()
        state.check_train_data(stage)
        folder = context.workspace.artifact(stage.name).folder(unit.fingerprint)
        context.progress.started(StagePlan(stage.name, (planned,)), _num_steps(stage, unit, state))
        metrics = context.engine.fit(
            context.spec(stage), state.train_data(), folder, str(unit.fingerprint), context.progress.reached
        )
        bad = [Reject(r["image_id"], r["reason"], r["detail"]) for r in metrics.pop("rejects", [])]
        part = write_reject_rows(context.workspace, stage.name, unit.name, unit.fingerprint, unit.settings, bad)
        context.commit_rejects(stage.name, {unit.name: part})
        metrics["num_left_out"] = _num_left_out(stage, state)
        context.commit_artifact(stage, unit, metrics, MODEL_FILES, time.monotonic() - started)
        report.ran, report.figures, report.num_rejects = report.ran + 1, metrics, len(bad)
        report.num_rows = metrics.get("num_images", 0)


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
    num_images = sum(part.num_rows for part in state.catalog_parts(roles))
    require_a_batch(stage.name, state.config.trainings()[stage.name], roles, num_images)


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
