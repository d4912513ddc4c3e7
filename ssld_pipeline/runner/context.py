"""What every stage is brought up to date with: the inputs, the workspace, the engine, and who watches."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ssld_pipeline.runner.progress import Progress
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.survey import FileDigests, Survey
from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import WorkerSpec
from ssld_pipeline.stages.stage import Stage
from ssld_pipeline.store import files
from ssld_pipeline.store.part import Part
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from ssld_pipeline.runner.engine import Engine


class RunContext:
    """``engine`` is made once, when the first work is found. ``chosen``: the stages that this run brings up to date;
    ``trained``: the metrics of the models that it has made, by stage."""

    def __init__(self, survey: Survey, engine: Callable[[], Engine], progress: Progress) -> None:
        self.survey, self.config, self.progress = survey, survey.config, progress
        self.workspace = Workspace(survey.config.workspace)
        self.digests = FileDigests(survey.config.workspace)
        self._make_engine = engine
        self.chosen: frozenset[str] = frozenset()
        self.trained: dict[str, dict[str, Any]] = {}

    @cached_property
    def engine(self) -> Engine:
        return self._make_engine()

    def state(self) -> State:
        return State(self.survey, self.workspace, self.digests)

    def spec(self, stage: Stage) -> WorkerSpec:
        return WorkerSpec(stage.name, self.config, self.survey.classes, self.survey.roots, os.cpu_count() or 1, "cpu")

    def commit_rejects(self, stage: str, parts: dict[str, Part | None]) -> None:
        """By name of the unit: its part of ``rejects``, or None where it has none any more."""
        table = self.workspace.tables["rejects"]
        committed = table.parts()
        stale = [committed[stage, name] for name in parts if (stage, name) in committed]
        table.commit([p for p in parts.values() if p], stale, {"ssld.stage": stage})

    def commit_artifact(
        self, stage: Stage, unit: Unit, figures: dict[str, Any], published: tuple[str, ...], seconds: float
    ) -> None:
        """``published``: the files that get a place of their own beside the folder; none: the folder is all there is,
        and replaces the one before."""
        artifact = self.workspace.artifact(stage.name)
        names = published or tuple(files.list_files(artifact.folder(unit.fingerprint)))
        artifact.commit(unit.fingerprint, unit.settings, figures, names=names, published=published, seconds=seconds)
        if not published:
            artifact.remove_others(unit.fingerprint)
