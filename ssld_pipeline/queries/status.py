"""What a workspace contains, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.contracts import VERDICTS
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.queries.trainings import training_rows, trainings
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    import duckdb

    from ssld_pipeline.config.run import RunConfig


def workspace_status(workspace: Workspace, config: RunConfig) -> dict[str, Any]:
    """Per table its parts, rows, bytes and version; per artifact its figures; rejects by stage and reason.

    ``trainings``: one row each, in the order in which they run. ``canaries``: per kind of planted copies, how many
    dedupe found. ``verdicts``: pairs and images by dedupe's verdict.
    ``lists``: what the config's dedupe.allow and dedupe.deny do. ``labels``: per input that may have labels, how many
    of its images have a class.
    """
    from ssld_pipeline.pipeline import stages
    from ssld_pipeline.runner.label_check import count_labels

    tables = {}
    for name, table in workspace.tables.items():
        parts = table.parts().values()
        tables[name] = {
            "parts": len(parts),
            "rows": sum(p.num_rows for p in parts),
            "bytes": sum(p.size_bytes for p in parts),
            "version": table.version(),
        }
    artifacts: dict[str, dict[str, Any]] = {}
    for stage in stages(config):
        if stage.table is None and (record := workspace.artifact(stage.name).record()):
            artifacts[stage.name] = {"seconds": record.seconds, "content": record.content, **record.figures}
    rejects = rows_of(workspace, "SELECT stage, reason, count(*) AS images FROM rejects GROUP BY ALL ORDER BY ALL")
    evaluations = rows_of(
        workspace,
        "SELECT model, input, image_size, weights, num_images, top1, top5 FROM evaluations ORDER BY ALL",
    )
    canaries = artifacts.get("check_dedupe", {}).pop("kinds", [])
    with workspace.connect("catalog", "duplicates") as connection:
        verdicts, lists = verdict_counts(connection), list_effects(connection, config)
    return {
        "workspace": workspace.uri,
        "tables": tables,
        "trainings": training_rows(trainings(workspace, config), evaluations),
        "artifacts": artifacts,
        "canaries": canaries,
        "verdicts": verdicts,
        "lists": lists,
        "rejects": rejects,
        "evaluations": evaluations,
        "labels": [
            {
                "input": found.name,
                "role": found.role,
                "images": found.num_images,
                "with_class": found.num_with_class,
                "without_class": found.num_without_class,
                "unknown_labels": ", ".join(str(label) for label, _ in found.unknown.most_common(3)),
            }
            for found in count_labels(workspace, config)
        ],
    }


def verdict_counts(tables: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Per role and verdict of ``duplicates``: role, verdict, pairs, images and what it means, the pool first, in the
    order of ``VERDICTS``."""
    query = """SELECT coalesce(role, 'pool') AS role, verdict, count(*) AS pairs, count(DISTINCT image_id) AS images
               FROM duplicates GROUP BY ALL"""
    rows = {(row["role"], row["verdict"]): row for row in tables.sql(query).to_arrow_table().to_pylist()}
    order = [(role, name) for role in ("pool", *TRAINED_ON_ROLES) for name in VERDICTS]
    return [{**rows[key], "meaning": VERDICTS[key[1]]} for key in order if key in rows]


def list_effects(tables: duckdb.DuckDBPyConnection, config: RunConfig) -> list[dict[str, Any]]:
    """Per list of the config that names image_ids: list, ids, known, in_effect (images with the verdict allowed or
    denied), unknown (in no input that is searched: mistyped?) and up to three examples of these."""
    from ssld_pipeline.stages.dedupe import register_lists

    register_lists(tables, config.dedupe)
    query = """
        SELECT 'dedupe.' || list AS list, count(*) AS ids, count_if(is_known) AS known,
               count(DISTINCT d.image_id) AS in_effect, count_if(NOT is_known) AS unknown,
               coalesce(string_agg(l.image_id, ', ' ORDER BY l.image_id) FILTER (NOT is_known AND place <= 3), '')
                   AS examples
        FROM (SELECT *, row_number() OVER (PARTITION BY list, is_known ORDER BY image_id) AS place FROM listed) l
        LEFT JOIN (SELECT DISTINCT image_id, verdict FROM duplicates) d
            ON d.image_id = l.image_id AND d.verdict = CASE list WHEN 'allow' THEN 'allowed' ELSE 'denied' END
        GROUP BY list ORDER BY list"""
    found: list[dict[str, Any]] = tables.sql(query).to_arrow_table().to_pylist()
    return found
