"""Artifact stages: one unit, one folder of files, made by one worker."""

from __future__ import annotations

import time

from ssld_pipeline.runner.context import RunContext
from ssld_pipeline.runner.planned import StagePlan, UnitPlan
from ssld_pipeline.runner.progress import StageReport
from ssld_pipeline.runner.shapes.shape import Shape, plan_artifact, whole
from ssld_pipeline.runner.state import State
from ssld_pipeline.stages.stage import ArtifactStage


def plan(stage: ArtifactStage, state: State) -> tuple[UnitPlan, ...]:
    return tuple(plan_artifact(stage, unit, state) for unit in whole(stage, state))


def bring(stage: ArtifactStage, plan: StagePlan, state: State, context: RunContext, report: StageReport) -> None:
    units = [u.unit for u in plan.of("run") if u.unit]
    context.progress.started(plan, sum(unit.num_rows for unit in units))
    for unit in units:
        started = time.monotonic()
        figures, rejects = context.engine.build(context.spec(stage), unit)
        context.commit_rejects(stage.name, {unit.name: rejects})
        report.num_rejects += rejects.num_rows if rejects else 0
        context.commit_artifact(stage, unit, figures, (), time.monotonic() - started)
        report.ran, report.figures, report.num_rows = report.ran + 1, figures, unit.num_rows


ARTIFACTS = Shape(whole, plan, bring)
