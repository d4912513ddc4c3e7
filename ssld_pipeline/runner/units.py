"""The units of work of each stage, and what each of them reads, as digests: the material of fingerprints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.pipeline import STAGES, stage_named
from ssld_pipeline.runner.provenance import teacher_note
from ssld_pipeline.runner.survey import FileDigests, Survey
from ssld_pipeline.stages.stage import PartStage, QueryStage, Setup, Stage, TrainData, TrainStage, tables_read
from ssld_pipeline.stages.teacher import teacher_files
from ssld_pipeline.store import files
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.fingerprints import Fingerprint, digest
from ssld_pipeline.store.tables import Part
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.training.job import TrainJob


@dataclass(frozen=True)
class Unit:
    """One piece of work. ``listing``: the shard to scan (catalog); ``files``: catalog parts to read, as URIs;
    ``excluded``: image_ids among their rows that are left out; ``previous``: a stale part whose rows may still hold;
    ``notes``: what readers of the output are told of it, no part of its identity; ``careful``: the part has ended
    workers, so find out by which images before they end another."""

    name: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    files: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    num_rows: int = 0
    listing: pa.Table | None = field(default=None, compare=False)
    previous: Part | None = None
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)
    careful: bool = field(default=False, compare=False)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint.of(self.settings, self.inputs)


class State:
    """A survey beside what the workspace holds at this moment; made anew before each stage."""

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

    def setup(self, stage: Stage, artifacts: Mapping[str, Path], num_threads: int = 1, device: str = "cpu") -> Setup:
        return Setup(self.config, self.survey.classes, artifacts, num_threads, device)


def units_of(stage: Stage, state: State) -> list[Unit]:
    """What the stage has to have done, in the order of names."""
    settings = settings_payload(stage, state)
    if isinstance(stage, PartStage) and stage.per == "shard":
        return [
            Unit(s.name, settings, {"listing": s.digest}, num_rows=s.listing.num_rows, listing=s.to_table())
            for s in state.survey.shards
        ]
    if isinstance(stage, PartStage):
        notes = notes_of(stage, state)
        return [replace(unit, notes=notes) for unit in _units_of_rows(stage, state, settings)]
    unit = _whole_unit(stage, state, settings, stage.name, stage.roles(state.config))
    return [_with_steps(stage, state, unit)] if isinstance(stage, TrainStage) else [unit]


def _units_of_rows(stage: PartStage, state: State, settings: Mapping[str, Any]) -> list[Unit]:
    roles = stage.roles(state.config)
    if stage.per == "part":
        return [part_unit(stage, state, part, settings) for part in state.catalog_parts(roles)]
    return [_whole_unit(stage, state, settings, name, (name,)) for name in state.survey.inputs_of(roles)]


def notes_of(stage: Stage, state: State) -> dict[str, Any]:
    """What readers of the stage's table are told beside its rows: who labelled."""
    return {"teacher": teacher_note(state)} if isinstance(stage, PartStage) and "teacher" in stage.networks else {}


def settings_payload(stage: Stage, state: State) -> dict[str, Any]:
    """Everything but the rows that can change the stage's result, by name."""
    payload: dict[str, Any] = {"stage": stage.name, "version": stage.version, "config": stage.settings(state.config)}
    artifacts = {name: _artifact_content(name, state) for name in stage.artifacts if _is_enabled(name, state)}
    if artifacts:
        payload["artifacts"] = artifacts
    networks = {
        name: _weights_digest(name, state)
        for name in stage.networks
        if not (name == "teacher" and "fit_teacher" in artifacts)
    }
    if "teacher" in stage.networks:
        networks |= {name: state.digests.of(uri, name) for name, uri in teacher_files(state.config).items()}
    if networks:
        payload["weights"] = networks
    if side_files := {name: uris for name, uris in stage.side_files(state.config).items() if uris}:
        payload["side_files"] = {
            name: sorted(state.digests.of(uri, name) for uri in uris) for name, uris in side_files.items()
        }
    if stage.uses_classes:
        payload["classes"] = digest(state.survey.classes)
    return payload


def same_but_config(committed: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two payloads differ in the stage's own settings at most: same version, weights, classes, artifacts."""
    return {k: v for k, v in committed.items() if k != "config"} == {k: v for k, v in wanted.items() if k != "config"}


def _is_enabled(name: str, state: State) -> bool:
    return stage_named(name).enabled(state.config)


def _is_written(table: str, state: State) -> bool:
    return any(isinstance(s, PartStage | QueryStage) and s.table == table and s.enabled(state.config) for s in STAGES)


def _artifact_content(name: str, state: State) -> str | None:
    record = state.workspace.artifact(name).record()
    return record.content if record else None


def _weights_digest(section: str, state: State) -> str | None:
    uri = getattr(state.config, section).weights
    return None if uri is None else state.digests.of(uri, f"{section}.weights")


def part_unit(stage: PartStage, state: State, part: Part, settings: Mapping[str, Any] | None = None) -> Unit:
    """``settings``: the stage's payload, where it is known already."""
    settings = settings_payload(stage, state) if settings is None else settings
    inputs: dict[str, Any] = {"catalog": part.content}
    excluded = state.excluded.get(part.name, ()) if "duplicates" in stage.reads else ()
    if "duplicates" in stage.reads:
        inputs["excluded"] = digest(excluded)
    uris = tuple(state.workspace.tables["catalog"].uris([part]))
    return Unit(part.name, settings, inputs, uris, excluded, part.num_rows - len(excluded))


def _whole_unit(stage: Stage, state: State, settings: Mapping[str, Any], name: str, roles: tuple[str, ...]) -> Unit:
    inputs, parts = {}, state.catalog_parts(roles)
    for table in (t for t in tables_read(stage, state.config) if _is_written(t, state)):
        read = parts if table == "catalog" else list(state.workspace.tables[table].parts().values())
        inputs[table] = digest(sorted([*p.unit, p.content] for p in read))
    uris = tuple(state.workspace.tables["catalog"].uris(parts))
    return Unit(name, settings, inputs, uris, num_rows=sum(p.num_rows for p in parts))


def _with_steps(stage: TrainStage, state: State, unit: Unit) -> Unit:
    """Epochs mean another number of steps when the number of images changes, even where those images are not read."""
    steps = outline(stage, state).settings.steps
    return Unit(unit.name, unit.settings, {**unit.inputs, "steps": steps}, unit.files, num_rows=unit.num_rows)


def outline(stage: TrainStage, state: State) -> TrainJob:
    """The stage's job with no artifact at hand: it tells what is trained, and cannot be carried out."""
    folders = {name: Path(files.join("artifacts", name)) for name in stage.artifacts if _is_enabled(name, state)}
    return stage.job(state.setup(stage, folders), state.train_data())


def committed_units(stage: PartStage | QueryStage, workspace: Workspace) -> dict[str, list[Part]]:
    """Committed parts of a table stage by the unit that wrote them; a shard of the catalog may have written several."""
    found: dict[str, list[Part]] = defaultdict(list)
    for part in workspace.tables[stage.table].parts().values():
        per_shard = isinstance(stage, PartStage) and stage.per == "shard"
        found[part.name.rsplit("#", 1)[0] if per_shard else part.name].append(part)
    return found
