"""The shapes of stages. To add a shape, write a module in this package and add a line here."""

from __future__ import annotations

from ssld_pipeline.runner.planned import StagePlan
from ssld_pipeline.runner.shapes.artifacts import ARTIFACTS
from ssld_pipeline.runner.shapes.parts import PARTS
from ssld_pipeline.runner.shapes.queries import QUERIES
from ssld_pipeline.runner.shapes.shape import Shape
from ssld_pipeline.runner.shapes.trainings import TRAININGS
from ssld_pipeline.runner.state import State
from ssld_pipeline.stages.stage import ArtifactStage, PartStage, QueryStage, Stage, TrainStage

SHAPES: dict[type[Stage], Shape] = {
    PartStage: PARTS,
    ArtifactStage: ARTIFACTS,
    QueryStage: QUERIES,
    TrainStage: TRAININGS,
}


def shape_of(stage: Stage) -> Shape:
    return SHAPES[type(stage)]


def plan_stage(stage: Stage, state: State) -> StagePlan:
    """The plan of one stage, given that everything upstream of it is up to date."""
    if not stage.enabled(state.config):
        return StagePlan(stage.name, enabled=False)
    return StagePlan(stage.name, shape_of(stage).plan(stage, state))
