"""Which stages of a run have work left, as far as the workspace tells: the inputs are not looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssld_pipeline.pipeline import stages

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.stages.stage import Stage
    from ssld_pipeline.store.workspace import Workspace


def unfinished(workspace: Workspace, config: RunConfig) -> list[str]:
    """One line for each enabled stage that has not run, or not on all parts of the catalog that it reads."""
    catalog = [part.name for part in workspace.tables["catalog"].parts().values()]
    found = []
    for stage in stages(config):
        if stage.enabled(config) and (line := _open_work(stage, workspace, config, catalog)):
            found.append(f"{stage.name}: {line}")
    return found


def _open_work(stage: Stage, workspace: Workspace, config: RunConfig, catalog: list[str]) -> str:
    """Empty where nothing is left to do."""
    if stage.table is None:
        return "" if workspace.artifact(stage.name).record() else "not run"
    done = {part.name for part in workspace.tables[stage.table].parts().values()}
    if stage.per in ("shard", "all"):
        return "" if done else "not run"
    inputs = config.inputs_of(stage.roles(config))
    wanted = set(inputs) if stage.per == "input" else {name for name in catalog if name.split("/", 1)[0] in inputs}
    if not catalog:
        return "not run"
    return "" if wanted <= done else f"{len(wanted & done)} of {len(wanted)} {stage.per}s"
