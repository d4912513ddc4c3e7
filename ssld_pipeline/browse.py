"""Answers about a workspace as plain data: its status, one table, one class, one image, any SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import TABLES, VERDICTS
from ssld_pipeline.errors import UserError
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from ssld_pipeline.config import RunConfig

_NUM_EXAMPLES = 10


def status(workspace: Workspace, config: RunConfig) -> dict[str, Any]:
    """Per table its parts, rows, bytes and version; per artifact its figures; rejects by stage and reason.

    ``canaries``: per kind of planted copies, how many dedupe found. ``verdicts``: pairs and images by dedupe's verdict.
    ``lists``: what the config's dedupe.allow and dedupe.deny do.
    """
    from ssld_pipeline.pipeline import STAGES
    from ssld_pipeline.stages.stage import ArtifactStage, TrainStage

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
    for stage in STAGES:
        if isinstance(stage, ArtifactStage | TrainStage) and (record := workspace.artifact(stage.name).record()):
            artifacts[stage.name] = {"seconds": record.seconds, "content": record.content, **record.figures}
    rejects = rows_of(workspace, "SELECT stage, reason, count(*) AS images FROM rejects GROUP BY ALL ORDER BY ALL")
    evaluations = rows_of(workspace, "SELECT model, input, num_images, top1, top5 FROM evaluations ORDER BY ALL")
    canaries = artifacts.get("check_dedupe", {}).pop("kinds", [])
    with workspace.connect("catalog", "duplicates") as connection:
        verdicts, lists = verdict_counts(connection), list_effects(connection, config)
    return {
        "workspace": workspace.uri,
        "tables": tables,
        "artifacts": artifacts,
        "canaries": canaries,
        "verdicts": verdicts,
        "lists": lists,
        "rejects": rejects,
        "evaluations": evaluations,
    }


def verdict_counts(tables: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Per verdict of ``duplicates``: verdict, pairs, images and what it means, in the order of ``VERDICTS``."""
    query = "SELECT verdict, count(*) AS pairs, count(DISTINCT image_id) AS images FROM duplicates GROUP BY 1"
    rows = {row["verdict"]: row for row in tables.sql(query).to_arrow_table().to_pylist()}
    return [{**rows[name], "meaning": says} for name, says in VERDICTS.items() if name in rows]


def list_effects(tables: duckdb.DuckDBPyConnection, config: RunConfig) -> list[dict[str, Any]]:
    """Per list of the config that names image_ids: list, ids, in_pool, in_effect (images with the verdict allowed or
    denied), unknown (in no pool input: mistyped?) and up to three examples of these."""
    from ssld_pipeline.stages.dedupe import register_lists

    register_lists(tables, config.dedupe)
    query = """
        SELECT 'dedupe.' || list AS list, count(*) AS ids, count_if(in_pool) AS in_pool,
               count(DISTINCT d.image_id) AS in_effect, count_if(NOT in_pool) AS unknown,
               coalesce(string_agg(l.image_id, ', ' ORDER BY l.image_id) FILTER (NOT in_pool AND place <= 3), '')
                   AS examples
        FROM (SELECT *, row_number() OVER (PARTITION BY list, in_pool ORDER BY image_id) AS place FROM listed) l
        LEFT JOIN (SELECT DISTINCT image_id, verdict FROM duplicates) d
            ON d.image_id = l.image_id AND d.verdict = CASE list WHEN 'allow' THEN 'allowed' ELSE 'denied' END
        GROUP BY list ORDER BY list"""
    found: list[dict[str, Any]] = tables.sql(query).to_arrow_table().to_pylist()
    return found


def rows_of(workspace: Workspace, query: str) -> list[dict[str, Any]]:
    """The rows of ``sql`` as dictionaries."""
    found: list[dict[str, Any]] = sql(workspace, query).to_pylist()
    return found


def sql(workspace: Workspace, query: str) -> pa.Table:
    """Rows of a query over the tables as views. UserError with DuckDB's own message for a query it refuses."""
    import duckdb

    with workspace.connect() as tables:
        try:
            return tables.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"sql: {error}") from None


def table_summary(workspace: Workspace, name: str) -> dict[str, Any]:
    """What the table is, its columns with meanings, its parts, and first rows."""
    store = workspace.tables[_known(name)]
    parts = store.parts().values()
    return {
        **TABLES[name].published(),
        "parts": len(parts),
        "rows": sum(p.num_rows for p in parts),
        "bytes": sum(p.size_bytes for p in parts),
        "version": store.version(),
        "examples": rows_of(workspace, f'SELECT * FROM "{name}" ORDER BY ALL LIMIT {_NUM_EXAMPLES}'),
    }


def rows_of_class(workspace: Workspace, name: str, class_id: int) -> list[dict[str, Any]]:
    """First and last rows of a class in a table: best first where the table has a score."""
    order = {
        "soft_labels": ("top1_class", "top1_prob DESC, image_id"),
        "manifest": ("class_id", "rank NULLS LAST, image_id"),
        "catalog": ("class_id", "image_id"),
    }
    if _known(name) not in order:
        raise UserError(f"inspect {name} --class: the table has no class; tables that have one: {', '.join(order)}")
    column, by = order[name]
    places = f"row_number() OVER (ORDER BY {by}) AS place, count(*) OVER () AS total"
    ranked = f'SELECT *, {places} FROM "{name}" WHERE {column} = {class_id}'
    return rows_of(
        workspace,
        f"SELECT * FROM ({ranked}) WHERE place <= {_NUM_EXAMPLES} OR place > total - {_NUM_EXAMPLES} ORDER BY place",
    )


def rows_of_image(workspace: Workspace, image_id: str) -> dict[str, list[dict[str, Any]]]:
    """Every row that speaks of the image, by table. UserError when none does."""
    quoted = "'" + image_id.replace("'", "''") + "'"
    found: dict[str, list[dict[str, Any]]] = {}
    for name, contract in TABLES.items():
        ids = [c.name for c in contract.columns if c.name in ("image_id", "protected_id", "other_id")]
        if ids:
            where = " OR ".join(f"{c} = {quoted}" for c in ids)
            if rows := rows_of(workspace, f'SELECT * FROM "{name}" WHERE {where}'):
                found[name] = rows
    if not found:
        raise UserError(
            f"no table of {workspace.uri} speaks of image {image_id!r}; "
            "an image_id looks like pool/pool-000.tar/name.jpg"
        )
    return found


def _known(name: str) -> str:
    if name not in TABLES:
        raise UserError(f"inspect {name}: no such table; tables are {', '.join(TABLES)}")
    return name
