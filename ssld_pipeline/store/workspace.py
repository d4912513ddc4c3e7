"""A workspace: its tables, its artifacts, and its tables as DuckDB views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ssld_pipeline.contracts import TABLES
from ssld_pipeline.sql_text import literals
from ssld_pipeline.store import files
from ssld_pipeline.store.artifacts import ArtifactStore
from ssld_pipeline.store.tables import Part, TableStore

if TYPE_CHECKING:
    import duckdb

MODEL_STAGES = ("fit_teacher", "baseline", "train", "finetune")


class Workspace:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.tables = {name: TableStore(uri, contract) for name, contract in TABLES.items()}

    def artifact(self, stage: str) -> ArtifactStore:
        return ArtifactStore(files.join(self.uri, "models" if stage in MODEL_STAGES else "artifacts"), stage)

    def recorded_roots(self, table: str) -> dict[str, str]:
        """Where the inputs lay when ``table`` was last brought up to date: input name -> root."""
        return dict((files.read_json(files.join(self.uri, ".roots.json")) or {}).get(table, {}))

    def record_roots(self, table: str, roots: dict[str, str]) -> None:
        if self.recorded_roots(table) != roots:
            uri = files.join(self.uri, ".roots.json")
            files.write_json(uri, {**(files.read_json(uri) or {}), table: roots})

    def connect(
        self, *names: str, memory_limit: str | None = None, only: Iterable[Part] | None = None
    ) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection on which the named tables (default: all) are views of their committed parts.

        ``only``: of these parts of the one table that is named. A table without parts is an empty view with the
        contract's columns.
        """
        import duckdb

        connection = duckdb.connect()
        connection.execute("SET enable_progress_bar = false")
        if memory_limit:
            connection.execute(f"SET memory_limit = '{memory_limit}'")
        for name in names or tuple(TABLES):
            self.add_view(connection, name, only=only)
        return connection

    def add_view(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        version: int | None = None,
        view: str | None = None,
        only: Iterable[Part] | None = None,
    ) -> None:
        """The table ``name``, as of ``version`` of its Delta log, as the view ``view``; default: as it is, by its name.

        ``only``: of these parts. UserError for a version that is not there.
        """
        table, view = self.tables[name], view or name
        parts = table.parts(version) if only is None else {part.unit: part for part in only}
        uris = table.uris(parts[unit] for unit in sorted(parts))  # rows of sorted parts come sorted by image_id
        if not uris:
            connection.register(view, table.contract.schema().empty_table())
        elif files.is_local(self.uri):
            source = f"read_parquet([{literals(uris)}])"
            if table.lacks_columns(parts.values()):  # null, in those that were written without
                connection.register(f"columns of {view}", table.contract.schema().empty_table())
                named = f"read_parquet([{literals(uris)}], union_by_name = true)"
                source = f'(FROM "columns of {view}" UNION ALL BY NAME FROM {named})'
            connection.execute(f'CREATE VIEW "{view}" AS SELECT * FROM {source}')
        else:  # DuckDB reads remote files through an extension that it would fetch at run time; Arrow needs none
            import fsspec
            import pyarrow.dataset as ds

            filesystem, _ = fsspec.core.url_to_fs(self.uri)
            paths = [filesystem._strip_protocol(u) for u in uris]
            schema = table.contract.schema() if table.lacks_columns(parts.values()) else None
            connection.register(view, ds.dataset(paths, schema, filesystem=filesystem, format="parquet"))
