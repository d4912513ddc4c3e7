"""What a stage stands on, for a trial of it: what the workspace has up to date, and stand-ins for what it has not.

A stand-in is an index of a sample of the protected images, or a network that nobody trained: how fast a network is does
not depend on its weights. All of them lie in a scratch folder.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.pipeline import stage_named, stage_of
from ssld_pipeline.stages.stage import ArtifactStage, Setup, Stage, TrainData, TrainStage
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.training.job import MODEL_FILE

if TYPE_CHECKING:
    from collections.abc import Collection

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.runner.calibrate.sample import Sample
    from ssld_pipeline.runner.state import State

_INDEXED = 150


class StandIns:
    """``stale``: the stages that have work to do, so that what they made is not there or not up to date.

    ``num_validated``: most images in the validation of a trial.
    """

    def __init__(self, state: State, stale: Collection[str], sample: Sample, folder: Path, num_validated: int) -> None:
        self.state, self.stale, self.sample, self.folder = state, stale, sample, folder
        self.workspace = Workspace(str(folder / "workspace"))
        self._num_validated = num_validated
        self._found: dict[str, Path] = {}

    def setup(self, stage: Stage, num_threads: int = 1, device: str = "cpu", config: RunConfig | None = None) -> Setup:
        """As a worker of the stage is given it."""
        config = config or self.state.config
        folders = {name: self.artifact(name) for name in stage.artifacts if stage_named(config, name).enabled(config)}
        return Setup(config, self.state.survey.classes, folders, num_threads, device)

    def artifact(self, name: str) -> Path:
        """A local folder."""
        if name not in self._found:
            record = self.state.workspace.artifact(name).record()
            if record and name not in self.stale:
                cache = Path(self.state.config.placement.cache or self.folder / "cache")
                self._found[name] = self.state.workspace.artifact(name).fetch(record, cache)
            else:
                self._found[name] = self._stand_in(name)
        return self._found[name]

    def _stand_in(self, name: str) -> Path:
        if isinstance(stage_named(self.state.config, name), TrainStage):
            return self._untrained(name)
        if name != "hold_out":
            return self.sampled_index
        folder = self.folder / "hold_out"
        folder.mkdir()
        stage_of(self.state.config, name, ArtifactStage).build(
            self.setup(stage_named(self.state.config, "catalog")), self.rows(TRAINED_ON_ROLES), folder
        )
        return folder

    @property
    def protected(self) -> pa.Table:
        """The rows that are indexed in a trial."""
        return spread(self.rows(stage_named(self.state.config, "index_protected").roles(self.state.config)), _INDEXED)

    @cached_property
    def sampled_index(self) -> Path:
        folder = self.folder / "index"
        folder.mkdir()
        stage = stage_of(self.state.config, "index_protected", ArtifactStage)
        stage.build(self.setup(stage, os.cpu_count() or 1), self.protected, folder)
        return folder

    def rows(self, roles: tuple[str, ...]) -> pa.Table:
        """Sampled catalog rows."""
        return self.sample.of(self.state.survey.inputs_of(roles))

    def num_images(self, roles: tuple[str, ...]) -> int:
        """Images of these roles in the whole."""
        return self.sample.num_images(self.state.survey.inputs_of(roles))

    def model_bytes(self, name: str) -> int:
        """Of the weights that a training stage writes."""
        return (self._untrained(name) / MODEL_FILE).stat().st_size

    def _untrained(self, name: str) -> Path:
        from ssld_pipeline.models.build import build
        from ssld_pipeline.models.weights import save_weights

        stage, folder = stage_of(self.state.config, name, TrainStage), self.folder / "models" / name
        if not folder.exists():
            job = stage.job(self.setup(stage), self.train_data(stage))
            folder.mkdir(parents=True)
            save_weights(build(job.student), folder / MODEL_FILE)
        return folder

    def train_data(self, stage: TrainStage) -> TrainData:
        """The sample as tables; the numbers of images are those of the whole."""
        labeled, mined, labels = self.rows(("labeled",)), self.rows(("pool",)), self._labels
        if "soft_labels" in stage.tables_read(self.state.config):
            labeled, mined = _seen(labeled, labels), _seen(mined, labels)
        zeros = pa.array([0] * len(mined), pa.int32())
        mined = mined.set_column(mined.column_names.index("class_id"), "class_id", zeros)
        protected, teacher = self.rows(("protected",)), self.rows(("teacher",))
        validation = spread(protected.filter(pc.is_valid(protected["class_id"])), self._num_validated)
        labeled_uris = self._table("labeled", labeled)
        inputs = {name: self._table(f"input-{name}", self.rows((name,))) for name in self._trained_on}
        return TrainData(
            manifest=(*labeled_uris, *self._table("manifest", mined)),
            labeled=labeled_uris,
            validation=self._table("validation", validation),
            teacher=self._table("teacher", teacher) if len(teacher) else labeled_uris,
            num_labeled=self.num_images(("labeled",)),
            num_mined=self.num_mined,
            soft_labels=tuple(labels.tables["soft_labels"].uris()),
            inputs=inputs,
            num_of_input={name: self.num_images((name,)) for name in self._trained_on},
        )

    @property
    def _trained_on(self) -> tuple[str, ...]:
        return self.state.survey.inputs_of(TRAINED_ON_ROLES)

    @property
    def _labels(self) -> Workspace:
        """Where soft labels of the sample are: as they are, or those that the trial of label left."""
        return self.workspace if "label" in self.stale else self.state.workspace

    @property
    def num_mined(self) -> int:
        """As the manifest has it; before there is one the most that select can take."""
        if "select" not in self.stale:
            return self.state.train_data().num_mined
        select = self.state.config.select
        most = select.target_total or select.per_class * len(self.state.survey.classes)
        return min(most, self.num_images(("pool",)))

    def _table(self, name: str, rows: pa.Table) -> tuple[str, ...]:
        path = self.folder / f"{name}.parquet"
        pq.write_table(rows, path)
        return (str(path),)


def _seen(rows: pa.Table, labels: Workspace) -> pa.Table:
    """Those of which augmented views are labelled."""
    with labels.connect("soft_labels") as tables:
        tables.register("sample", rows.select(["image_id"]))
        query = 'SELECT DISTINCT image_id FROM soft_labels SEMI JOIN sample USING (image_id) WHERE "view" > 0'
        return rows.filter(pc.is_in(rows["image_id"], tables.sql(query).to_arrow_table()["image_id"].combine_chunks()))


def spread(rows: pa.Table, count: int) -> pa.Table:
    """At most ``count`` of the rows, evenly spread."""
    return rows.take(np.unique(np.linspace(0, max(0, len(rows) - 1), min(count, len(rows))).astype(np.int64)))


def lenient(config: RunConfig, canaries: int) -> RunConfig:
    """For checks on a sample, with networks that may be untrained: they measure and refuse nothing."""
    dedupe = config.dedupe.model_copy(update={"min_canary_recall": 0.0, "canaries": canaries})
    teacher = config.teacher.model_copy(update={"min_top1": 0.0})
    return config.model_copy(update={"dedupe": dedupe, "teacher": teacher})
