"""Query stages: one unit, one part, done by DuckDB in the driver."""

from __future__ import annotations

import json

import pyarrow as pa

from ssld_pipeline.runner.context import RunContext
from ssld_pipeline.runner.planned import StagePlan, UnitPlan
from ssld_pipeline.runner.progress import StageReport
from ssld_pipeline.runner.shapes.shape import Shape, plan_unit, whole
from ssld_pipeline.runner.state import State
from ssld_pipeline.stages.stage import QueryStage


def plan(stage: QueryStage, state: State) -> tuple[UnitPlan, ...]:
    committed = list(state.workspace.tables[stage.table].parts().values())
    return tuple(plan_unit(stage, unit, committed, state) for unit in whole(stage, state))


def bring(stage: QueryStage, plan: StagePlan, state: State, context: RunContext, report: StageReport) -> None:
    work, table = plan.of("run"), context.workspace.tables[stage.table]
    context.progress.started(plan, sum(u.unit.num_rows for u in work if u.unit))
    for planned in [*work, *plan.of("move")]:
        assert planned.unit is not None
        unit = planned.unit
        with context.workspace.connect(*stage.reads, is_checked=True) as connection:
            if stage.is_guarded:
                state.require_searched()
                left_out = state.left_out_of(stage.roles(state.config))
                connection.register("left_out", pa.table({"image_id": pa.array(left_out, pa.string())}))
            rows = stage.query(connection, context.config)
        report.figures = stage.figures(rows)
        part = table.write(rows, {"part": unit.name}, unit.fingerprint, unit.settings, context.survey.roots)
        note = {"ssld.stage": stage.name, "ssld.figures": json.dumps(report.figures)}
        table.commit([part], planned.committed, note)
        report.num_rows += part.num_rows
        report.ran += planned.action == "run"
        report.moved += planned.action == "move"
    # Its addresses are those of the catalog, wherever that last saw the inputs.
    context.workspace.record_roots(stage.table, context.workspace.recorded_roots("catalog"))


QUERIES = Shape(whole, plan, bring)
