"""Writes the report of a workspace, wherever the workspace lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.pipeline import stages
from ssld_pipeline.queries.status import list_effects
from ssld_pipeline.queries.trainings import Training, trainings
from ssld_pipeline.report.canaries import MAX_MISSED
from ssld_pipeline.report.comparison import GIVEN
from ssld_pipeline.report.page import render
from ssld_pipeline.report.pictures import Address
from ssld_pipeline.stages.teacher import teacher_licence, teacher_model
from ssld_pipeline.store import files
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig


def write_report(config: RunConfig, classes: tuple[str, ...], out: Path | None) -> str:
    """Where the page was written: ``out``, or report.html in the workspace."""
    workspace = Workspace(config.workspace)
    target = str(out) if out else files.join(config.workspace, "report.html")
    with workspace.connect() as tables:
        page = render(
            tables,
            _trainings(workspace, config),
            title=f"SSLD: {Path(config.workspace).parent.name or config.workspace}",
            classes=classes,
            stages=stage_rows(workspace, config),
            licence=teacher_licence(config),
            lists=list_effects(tables, config),
            dedupe=config.dedupe,
            canaries=_canaries(workspace) if config.dedupe.canaries else None,
            missed=_missed(workspace),
            facts={"workspace": config.workspace, "teacher": teacher_model(config), "students": _students(config)},
        )
    files.write_bytes(target, page.encode())
    return target


def _students(config: RunConfig) -> str:
    """The networks of all trainings, each once."""
    networks = (config.network_of(name) for name in config.ordered_nodes())
    return ", ".join(dict.fromkeys(network.model for network in networks if network))


def _trainings(workspace: Workspace, config: RunConfig) -> list[Training]:
    """All of them, the teacher first, whether the run fits it or is given its weights."""
    found = trainings(workspace, config)
    if any(one.evaluated_as == GIVEN for one in found):
        return found
    given = Training(GIVEN, True, network=teacher_model(config), image_size=config.teacher.image_size)
    return [given, *found]


def _canaries(workspace: Workspace) -> dict[str, Any]:
    record = workspace.artifact("check_dedupe").record()
    return record.figures if record else {}


def _missed(workspace: Workspace) -> list[Address]:
    """Pictures of planted copies that dedupe missed, by number, no more than the page shows."""
    artifact = workspace.artifact("check_dedupe")
    record = artifact.record()
    if not record:
        return []
    names = sorted(name for name in record.files if name.endswith(".jpg"))[:MAX_MISSED]
    folder = artifact.folder(record.fingerprint)
    return [Address(Path(name).stem, files.join(folder, name), 0, len(artifact.read(record, name))) for name in names]


def stage_rows(workspace: Workspace, config: RunConfig) -> list[dict[str, Any]]:
    """Those that have made something, in the order of the pipeline."""
    rejects: dict[str, int] = {}
    for (name, _), part in workspace.tables["rejects"].parts().items():
        rejects[name] = rejects.get(name, 0) + part.num_rows
    rows = []
    for stage in stages(config):
        own: dict[str, Any] = {"stage": stage.name, "rejects": rejects.get(stage.name, 0)}
        if stage.table:
            parts = list(workspace.tables[stage.table].parts().values())
            if any(other.table == stage.table and other.name != stage.name for other in stages(config)):
                inputs = config.inputs_of(stage.roles(config))
                parts = [part for part in parts if part.name.split("/", 1)[0] in inputs]
            if parts:
                rows.append({**own, "parts": len(parts), "rows": sum(p.num_rows for p in parts)})
        elif record := workspace.artifact(stage.name).record():
            rows.append({**own, "parts": 1, "seconds": record.seconds})
    return rows
