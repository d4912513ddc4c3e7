"""What a run starts from: the inputs as surveyed, and what the workspace holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.contracts import PAIRS
from ssld_pipeline.pipeline import stage_named, stages
from ssld_pipeline.runner.survey import FileDigests, Survey
from ssld_pipeline.sql_text import literals
from ssld_pipeline.stages.guard_training import copies
from ssld_pipeline.stages.stage import Setup, Stage, TrainData
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.part import Part
from ssld_pipeline.store.workspace import Workspace


class State:
    """The survey, and what the workspace holds at this moment; made again before each stage."""

    def __init__(self, survey: Survey, workspace: Workspace, digests: FileDigests) -> None:
        self.survey, self.workspace, self.digests = survey, workspace, digests
        self.config = survey.config
        self._settings: dict[tuple[str, str], dict[str, Any]] = {}
        self._committed: dict[str, dict[tuple[str, ...], Part]] = {}
        self._lost: dict[str, dict[str, str]] = {}
        self._roots: dict[str, dict[str, str]] = {}

    @cached_property
    def catalog(self) -> dict[str, Part]:
        return {p.name: p for p in self._parts("catalog").values()}

    def catalog_parts(self, roles: tuple[str, ...]) -> list[Part]:
        inputs = self.survey.inputs_of(roles)
        return [self.catalog[name] for name in sorted(self.catalog) if name.split("/", 1)[0] in inputs]

    def catalog_uris(self, *roles: str) -> tuple[str, ...]:
        return tuple(self.workspace.tables["catalog"].uris(self.catalog_parts(roles)))

    @cached_property
    def class_lists(self) -> ClassLists:
        return ClassLists(self.workspace.uri)

    def lost(self, stage: Stage, unit: str, committed: Iterable[Part]) -> str:
        """What is missing or cut of a unit's parts, its part of rejects included: then the unit is done again. Empty
        where all are there."""
        rejects = self._parts("rejects").get((stage.name, unit))
        lost = {name: self._unreadable(name) for name in (stage.table, "rejects") if name}
        found = [(stage.table, part) for part in committed] + ([("rejects", rejects)] if rejects else [])
        for table, part in found:
            if table and (why := lost[table].get(part.file)):
                return f"{table}/{part.file}: {why}"
        return ""

    def _unreadable(self, table: str) -> dict[str, str]:
        """By name of the part's file; one listing of each table."""
        if table not in self._lost:
            self._lost[table] = self.workspace.tables[table].unreadable(self._parts(table).values())
        return self._lost[table]

    def _parts(self, table: str) -> dict[tuple[str, ...], Part]:
        if table not in self._committed:
            self._committed[table] = self.workspace.tables[table].parts()
        return self._committed[table]

    def whole(self, table: str, parts: Iterable[Part]) -> list[Part]:
        """Those of a table's ``parts`` that are there, with all their bytes."""
        lost = self._unreadable(table)
        return [part for part in parts if part.file not in lost]

    def recorded_roots(self, table: str) -> dict[str, str]:
        if table not in self._roots:
            self._roots[table] = self.workspace.recorded_roots(table)
        return self._roots[table]

    @cached_property
    def knows_excluded(self) -> bool:
        """Whether ``excluded`` can be asked. Not where parts of its tables are missing: then the stages that make them
        run first."""
        wanted = {name: list(self._parts(name).values()) for name in ("catalog", "duplicates")}
        wanted["rejects"] = self._unsearched("find_copies", "guard_training")
        return all(len(self.whole(name, parts)) == len(parts) for name, parts in wanted.items())

    def _unsearched(self, *stages: str) -> list[Part]:
        """Parts of rejects that say which images these stages could not search for copies."""
        return [part for (stage, _), part in self._parts("rejects").items() if stage in stages]

    @cached_property
    def excluded(self) -> dict[str, tuple[str, ...]]:
        """Catalog part -> image_ids that are not labelled: duplicates, and images that could not be searched for
        copies. Raises DamagedFile if a part that says so is not what was written."""
        query = """SELECT c.part, image_id FROM catalog c SEMI JOIN
                   (SELECT image_id FROM duplicates WHERE is_duplicate
                    UNION SELECT image_id FROM rejects WHERE stage IN ('find_copies', 'guard_training'))
                   USING (image_id) ORDER BY ALL"""
        found = defaultdict(list)
        unsearched = self._unsearched("find_copies", "guard_training")
        with self.workspace.connect("catalog", "duplicates", is_checked=True) as connection:
            self.workspace.add_view(connection, "rejects", only=unsearched, is_checked=True)
            for part, image_id in connection.execute(query).fetchall():
                found[part].append(image_id)
        return {part: tuple(ids) for part, ids in found.items()}

    @cached_property
    def leaks(self) -> dict[str, str]:
        """image_id -> protected_id of images that networks would be trained on, and that copy a protected image. Parts
        that are missing tell nothing: guard_training makes them again, and ``require_searched`` insists on them."""
        table = self.workspace.tables["pairs"]
        rows = [table.read(part) for part in self.whole("pairs", self._pairs_of_trained_on()) if part.num_rows]
        found = copies(pa.concat_tables([PAIRS.schema().empty_table(), *rows]), self.config)
        denied = [image_id for image_id, of in found.items() if not of]
        unknown = set(denied) - self._catalogued(denied)
        return {image_id: of for image_id, of in found.items() if image_id not in unknown}

    def _catalogued(self, image_ids: list[str]) -> set[str]:
        """Those that the catalog has."""
        if not image_ids:
            return set()
        with self.workspace.connect("catalog") as connection:
            query = f"SELECT image_id FROM catalog WHERE image_id IN ({literals(image_ids)})"
            return {image_id for (image_id,) in connection.execute(query).fetchall()}

    def _pairs_of_trained_on(self) -> list[Part]:
        """Of images that are catalogued now: parts that guard_training has yet to replace or remove tell nothing."""
        inputs = self.survey.inputs_of(TRAINED_ON_ROLES)
        own = [part for part in self._parts("pairs").values() if part.name.split("/", 1)[0] in inputs]
        return [part for part in own if part.name in self.catalog]

    def require_searched(self) -> None:
        """Raises DamagedFile if a part that says what no network may be trained on is not what was written."""
        self.workspace.tables["pairs"].check(self._pairs_of_trained_on())
        self.workspace.tables["rejects"].check(self._unsearched("guard_training"))

    @cached_property
    def left_out(self) -> dict[str, tuple[str, ...]]:
        """Input name -> image_ids that no network is trained on: leaks, and what could not be searched for them."""
        table = self.workspace.tables["rejects"]
        parts = self.whole("rejects", self._unsearched("guard_training"))
        unsearched = [image_id for part in parts for image_id in table.read(part)["image_id"].to_pylist()]
        found: dict[str, list[str]] = defaultdict(list)
        for image_id in sorted({*self.leaks, *unsearched}):
            found[image_id.split("/", 1)[0]].append(image_id)
        return {name: tuple(ids) for name, ids in found.items()}

    def left_out_of(self, roles: tuple[str, ...]) -> tuple[str, ...]:
        """The same of the inputs of these roles."""
        return tuple(sorted(i for name in self.survey.inputs_of(roles) for i in self.left_out.get(name, ())))

    def settings_of(self, table: str, part: Part) -> dict[str, Any]:
        """The payload that the part was made with; of thousands of parts that share it, one is asked."""
        key = (table, part.fingerprint.settings)
        if key not in self._settings:
            self._settings[key] = self.workspace.tables[table].settings_of(part)
        return self._settings[key]

    def check_train_data(self, stage: Stage) -> None:
        """Raises DamagedFile if a part that a training reads is not what was written. The processes that train read
        the parts by themselves, so that this is done once, before they start."""
        self.require_searched()
        read = {name: self.workspace.tables[name].parts().values() for name in stage.tables_read(self.config)}
        for name, parts in {**read, "catalog": self.catalog.values()}.items():
            self.workspace.tables[name].check(parts)

    def train_data(self) -> TrainData:
        manifest = self.workspace.tables["manifest"]
        parts = list(manifest.parts().values())
        labeled = self.catalog_uris("labeled")
        num_labeled, names = self._num_trained_on("labeled"), self.survey.inputs_of(TRAINED_ON_ROLES)
        return TrainData(
            manifest=tuple(manifest.uris(parts)),
            labeled=labeled,
            validation=self.catalog_uris("protected"),
            teacher=self.catalog_uris("teacher") or labeled,
            soft_labels=tuple(self.workspace.tables["soft_labels"].uris()),
            left_out=self.left_out_of(TRAINED_ON_ROLES),
            inputs={name: self.catalog_uris(name) for name in names},
            num_of_input={name: self._num_trained_on(name) for name in names},
            num_labeled=num_labeled,
            num_mined=max(0, sum(p.num_rows for p in parts) - num_labeled),
        )

    def _num_trained_on(self, role: str) -> int:
        return sum(part.num_rows for part in self.catalog_parts((role,))) - len(self.left_out_of((role,)))

    def setup(self, artifacts: Mapping[str, Path]) -> Setup:
        return Setup(self.config, self.survey.classes, artifacts)

    def is_enabled(self, name: str) -> bool:
        return stage_named(self.config, name).enabled(self.config)

    def is_written(self, table: str) -> bool:
        """Whether a stage of this config writes it."""
        return any(stage.table == table and stage.enabled(self.config) for stage in stages(self.config))
