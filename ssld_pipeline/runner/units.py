"""A unit of work, and what it depends on, as digests: the material of fingerprints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ssld_pipeline.runner.provenance import teacher_note
from ssld_pipeline.runner.state import State
from ssld_pipeline.stages.stage import Stage
from ssld_pipeline.stages.teacher import teacher_files
from ssld_pipeline.store.fingerprints import Fingerprint, digest
from ssld_pipeline.store.part import Part
from ssld_pipeline.training.job import MODEL_FILE

if TYPE_CHECKING:
    import pyarrow as pa


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


def whole_unit(stage: Stage, state: State, settings: Mapping[str, Any], name: str, roles: tuple[str, ...]) -> Unit:
    """A unit that reads all catalog rows of ``roles`` and the whole of the other tables."""
    inputs, parts = {}, state.catalog_parts(roles)
    for table in (t for t in stage.tables_read(state.config) if state.is_written(t)):
        read = parts if table == "catalog" else list(state.workspace.tables[table].parts().values())
        inputs[table] = digest(sorted([*p.unit, p.content] for p in read))
    uris = tuple(state.workspace.tables["catalog"].uris(parts))
    return Unit(name, settings, inputs, uris, num_rows=sum(p.num_rows for p in parts))


def notes_of(stage: Stage, state: State) -> dict[str, Any]:
    """Notes for readers of the stage's table: which teacher labelled."""
    return {"teacher": teacher_note(state)} if stage.table and "teacher" in stage.networks else {}


def settings_payload(stage: Stage, state: State) -> dict[str, Any]:
    """Everything but the rows that can change the stage's result, by name."""
    payload: dict[str, Any] = {"stage": stage.name, "version": stage.version, "config": stage.settings(state.config)}
    artifacts = {name: _artifact_content(name, state) for name in stage.artifacts if state.is_enabled(name)}
    if artifacts:
        payload["artifacts"] = artifacts
    networks = (
        {} if "teacher" not in stage.networks or "fit_teacher" in artifacts else {"teacher": _teacher_digest(state)}
    )
    if "teacher" in stage.networks:
        networks |= {name: state.digests.of(uri, name) for name, uri in teacher_files(state.config).items()}
    for name, uri in stage.weights(state.config).items():
        networks[name] = None if uri is None else state.digests.of(uri, f"weights of {stage.name}")
    if networks:
        payload["weights"] = networks
    if side_files := {name: uris for name, uris in stage.side_files(state.config).items() if uris}:
        payload["side_files"] = {
            name: sorted(state.digests.of(uri, name) for uri in uris) for name, uris in side_files.items()
        }
    if stage.uses_classes:
        payload["classes"] = digest(state.survey.classes)
    return payload


def same_but_config(committed: Mapping[str, Any], wanted: Mapping[str, Any], but_also: tuple[str, ...] = ()) -> bool:
    """Whether two payloads differ in the stage's own settings at most, and in the entries ``but_also``: same version,
    weights, classes, artifacts."""
    ignored = ("config", *but_also)
    return {k: v for k, v in committed.items() if k not in ignored} == {
        k: v for k, v in wanted.items() if k not in ignored
    }


def _artifact_content(name: str, state: State) -> str | None:
    """Of a training's model only the weights count: its metrics tell how fast it was made."""
    record = state.workspace.artifact(name).usable_record()
    if record is None:
        return None
    return record.files[MODEL_FILE] if name in state.config.nodes else record.content


def _teacher_digest(state: State) -> str | None:
    uri = state.config.teacher.weights
    return None if uri is None else state.digests.of(uri, "teacher.weights")
