"""Any SQL query over the tables of a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import UserError
from ssld_pipeline.store.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa


def rows_of(workspace: Workspace, query: str) -> list[dict[str, Any]]:
    """The rows of ``run_sql`` as dictionaries."""
    found: list[dict[str, Any]] = run_sql(workspace, query).to_pylist()
    return found


def run_sql(workspace: Workspace, query: str) -> pa.Table:
    """Rows of a query over the tables as views. UserError with DuckDB's own message for a query it refuses, DamagedFile
    where a part is not what was written."""
    import duckdb

    with workspace.connect() as tables:
        try:
            return tables.sql(query).to_arrow_table()
        except duckdb.Error as error:
            if isinstance(error, duckdb.IOException | duckdb.InvalidInputException):  # perhaps for a damaged part
                for table in workspace.tables.values():
                    table.check(table.parts().values())
            raise UserError(f"sql: {error}") from None
