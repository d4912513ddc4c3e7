"""A workspace: its tables, its artifacts, and its tables as DuckDB views."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import TABLES
from ssld_pipeline.sql_text import literals
from ssld_pipeline.store import files
from ssld_pipeline.store.artifacts import ArtifactStore
from ssld_pipeline.store.damage import DamagedFile
from ssld_pipeline.store.part import Part
from ssld_pipeline.store.tables import TableStore

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger(__name__)

ARTIFACT_STAGES = ("index_protected", "check_dedupe", "hold_out", "check_teacher")
"""Stages that write a folder under ``artifacts``; the folders of all others are under ``models``."""


class Workspace:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.tables = {name: TableStore(uri, contract) for name, contract in TABLES.items()}

    def artifact(self, stage: str) -> ArtifactStore:
        return ArtifactStore(files.join(self.uri, "artifacts" if stage in ARTIFACT_STAGES else "models"), stage)

    def models(self) -> list[str]:
        """Names of the trainings that have left something here, finished or not, whether a config names them or not."""
        return sorted({path.split("/", 1)[0] for path in files.list_files(files.join(self.uri, "models"))})

    def recorded_roots(self, table: str) -> dict[str, str]:
        """Where the inputs lay when ``table`` was last brought up to date: input name -> root. Where nothing recorded
        it, the parts are asked, which opens all of them."""
        recorded = self._read_roots().get(table)
        return self._roots_of_parts(table) if recorded is None else dict(recorded)

    def record_roots(self, table: str, roots: dict[str, str]) -> None:
        recorded = self._read_roots()
        if recorded.get(table) != roots:
            files.write_sealed(self._roots_uri, {**recorded, table: roots})

    @property
    def _roots_uri(self) -> str:
        return files.join(self.uri, ".roots.json")

    def _read_roots(self) -> dict[str, Any]:
        """Empty where the file is missing or damaged: what it holds is in the parts, too."""
        try:
            return files.read_sealed(self._roots_uri) or {}
        except DamagedFile as damage:
            _log.warning("%s is damaged (%s), so the roots are read from the parts", damage.uri, damage.why)
            return {}

    def _roots_of_parts(self, table: str) -> dict[str, str]:
        """Of a table with addresses. A part of the catalog, ``<input>/...``, tells of its own input; a part that was
        made of all inputs tells of them all."""
        store, found = self.tables[table], dict[str, str]()
        if "uri" in store.contract.schema().names:
            for part in store.parts().values():
                roots, own = store.roots_of(part), part.name.split("/", 1)[0]
                found |= {own: roots[own]} if own in roots else roots
        return found

    def connect(
        self,
        *names: str,
        memory_limit: str | None = None,
        only: Iterable[Part] | None = None,
        is_checked: bool = False,
    ) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection on which the named tables (default: all) are views of their committed parts.

        ``only``: of these parts of the one table that is named. A table without parts is an empty view with the
        contract's columns. Raises DamagedFile for a part that is missing or cut; ``is_checked``: every byte of the
        parts is compared first, for results that are stored (``TableStore.damaged`` says what it costs).
        """
        import duckdb

        connection = duckdb.connect()
        connection.execute("SET enable_progress_bar = false")
        if memory_limit:
            connection.execute(f"SET memory_limit = '{memory_limit}'")
        for name in names or tuple(TABLES):
            self.add_view(connection, name, only=only, is_checked=is_checked)
        return connection

    def add_view(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        version: int | None = None,
        view: str | None = None,
        only: Iterable[Part] | None = None,
        is_checked: bool = False,
    ) -> None:
        """The table ``name``, as of ``version`` of its Delta log, as the view ``view``; default: as it is, by its name.

        ``only``, ``is_checked``: see ``connect``. UserError for a version that is not there.
        """
        table, view = self.tables[name], view or name
        parts = table.parts(version) if only is None else {part.unit: part for part in only}
        if is_checked:
            table.check(parts.values())
        elif files.is_local(self.uri):  # a remote table would be listed for every question; its readers name the file
            table.require_readable(parts.values())
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
