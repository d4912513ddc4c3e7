"""What a run starts from: the inputs as surveyed, and what the workspace holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ssld_pipeline.pipeline import stage_named, stages
from ssld_pipeline.runner.survey import FileDigests, Survey
from ssld_pipeline.stages.stage import Setup, TrainData
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.tables import Part
from ssld_pipeline.store.workspace import Workspace


class State:
    """The survey, and what the workspace holds at this moment; made again before each stage."""

    def __init__(self, survey: Survey, workspace: Workspace, digests: FileDigests) -> None:
        self.survey, self.workspace, self.digests = survey, workspace, digests
        self.config = survey.config
        self._settings: dict[tuple[str, str], dict[str, Any]] = {}

    @cached_property
    def catalog(self) -> dict[str, Part]:
        return {p.name: p for p in self.workspace.tables["catalog"].parts().values()}

    def catalog_parts(self, roles: tuple[str, ...]) -> list[Part]:
        inputs = self.survey.inputs_of(roles)
        return [self.catalog[name] for name in sorted(self.catalog) if name.split("/", 1)[0] in inputs]

    def catalog_uris(self, *roles: str) -> tuple[str, ...]:
        return tuple(self.workspace.tables["catalog"].uris(self.catalog_parts(roles)))

    @cached_property
    def class_lists(self) -> ClassLists:
        return ClassLists(self.workspace.uri)

    @cached_property
    def excluded(self) -> dict[str, tuple[str, ...]]:
        """Catalog part -> image_ids that are not labelled: duplicates, and images that could not be decoded."""
        query = """SELECT c.part, image_id FROM catalog c SEMI JOIN
                   (SELECT image_id FROM duplicates WHERE is_duplicate
                    UNION SELECT image_id FROM rejects WHERE stage = 'find_copies') USING (image_id) ORDER BY ALL"""
        found = defaultdict(list)
        with self.workspace.connect("catalog", "duplicates", "rejects") as connection:
            for part, image_id in connection.execute(query).fetchall():
                found[part].append(image_id)
        return {part: tuple(ids) for part, ids in found.items()}

    def settings_of(self, table: str, part: Part) -> dict[str, Any]:
        """The payload that the part was made with; of thousands of parts that share it, one is asked."""
        key = (table, part.fingerprint.settings)
        if key not in self._settings:
            self._settings[key] = self.workspace.tables[table].settings_of(part)
        return self._settings[key]

    def train_data(self) -> TrainData:
        manifest = self.workspace.tables["manifest"]
        parts = list(manifest.parts().values())
        labeled = self.catalog_uris("labeled")
        num_labeled = sum(p.num_rows for p in self.catalog_parts(("labeled",)))
        return TrainData(
            manifest=tuple(manifest.uris(parts)),
            labeled=labeled,
            validation=self.catalog_uris("protected"),
            teacher=self.catalog_uris("teacher") or labeled,
            soft_labels=tuple(self.workspace.tables["soft_labels"].uris()),
            num_labeled=num_labeled,
            num_mined=max(0, sum(p.num_rows for p in parts) - num_labeled),
        )

    def setup(self, artifacts: Mapping[str, Path]) -> Setup:
        return Setup(self.config, self.survey.classes, artifacts)

    def is_enabled(self, name: str) -> bool:
        return stage_named(self.config, name).enabled(self.config)

    def is_written(self, table: str) -> bool:
        """Whether a stage of this config writes it."""
        return any(stage.table == table and stage.enabled(self.config) for stage in stages(self.config))
