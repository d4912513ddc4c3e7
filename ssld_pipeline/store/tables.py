"""A table: Parquet parts that a Delta log lists. Workers write parts, one driver commits them.

A part's file is named ``<settings>-<inputs>-<content>-<bytes>-<nonce>.parquet``: the two digests of its fingerprint,
the digests of its rows and of its bytes, and a nonce, so that no name is ever used twice and the log alone tells what
is computed. Names by older programs have no digest of the bytes; such a part is checked by its rows. Which unit of work
a file holds stands in its Delta statistics (the columns of ``Table.unit`` are constant within a part).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ssld_pipeline.contracts import Table
from ssld_pipeline.errors import UserError
from ssld_pipeline.store import files
from ssld_pipeline.store.damage import MISSING, OTHER_BYTES, DamagedFile, one_line, require_known_format
from ssld_pipeline.store.fingerprints import Fingerprint, digest, digest_bytes, digest_file, digest_rows
from ssld_pipeline.store.last_commit import FORMAT, LastCommit, digest_parts
from ssld_pipeline.store.log_files import damaged_log, log_damage
from ssld_pipeline.store.parquet_files import in_order, parquet_bytes, read_parquet
from ssld_pipeline.store.part import NAME, Part

_LOCATION_COLUMNS = ("uri",)  # where bytes lie is not what they are: moving an input changes no content digest
_ANOTHER_RUN = (
    "{uri}: the commit was refused, most likely because another run works on this workspace. "
    "Let one of them end, then run again: finished parts are kept. ({detail})"
)
_SETTINGS_KEY = b"ssld.settings"
_INPUTS_KEY = b"ssld.inputs"
_ROOTS_KEY = b"ssld.roots"
_FORMAT_KEY = b"ssld.format"
_SAMPLE = 3
_READERS = 4  # of parts to check: reading a remote one is waiting, and BLAKE2b lets other threads run
_whole: set[tuple[str, files.Stamp]] = set()  # parts that this process has read and found whole


class TableStore:
    """One table of a workspace. Only ``commit`` changes what readers see."""

    def __init__(self, workspace: str, contract: Table) -> None:
        self.contract = contract
        self.uri = files.join(workspace, contract.name)
        self._workspace = workspace

    def version(self) -> int | None:
        """Version of the Delta log, None where there is no table yet."""
        table, _ = self._open()
        return None if table is None else int(table.version())

    def parts(self, version: int | None = None) -> dict[tuple[str, ...], Part]:
        """Committed parts by unit, now or as of a version of the Delta log.

        UserError for a version that is not there, and for a file in the log that is not of this pipeline. DamagedFile
        if the log does not list what was committed last.
        """
        table, last = self._open()
        if table is None:
            return {}
        if version is not None and not 0 <= version <= table.version():
            raise UserError(f"{self.uri} has no version {version}; versions are 0 to {table.version()}")
        if version is not None:
            table.load_as_version(version)
        return self._parts_of(table, last)

    def unreadable(self, parts: Iterable[Part]) -> dict[str, str]:
        """By name of the part's file: why it cannot be read, as one listing of the folder tells: missing, or cut."""
        parts = list(parts)
        present = files.stamps(self.uri) if parts else {}
        return {part.file: why for part in parts if (why := _size_problem(part, present.get(part.file)))}

    def require_readable(self, parts: Iterable[Part]) -> None:
        """Raises DamagedFile if a part is missing or cut."""
        for name, why in self.unreadable(parts).items():
            raise DamagedFile(files.join(self.uri, name), why)

    def damaged(self, parts: Iterable[Part], again: bool = False) -> Iterator[tuple[Part, str]]:
        """Damaged parts, each with what is wrong. Reads every byte, 840 MB/s a core; of parts by older programs, whose
        rows are compared, 120 MB/s.

        A process reads a part once, and again when its size or time changed; ``again``: always.
        """
        parts = list(parts)
        present = files.stamps(self.uri) if parts else {}
        waiting: list[Part] = []
        for part in parts:
            stamp = present.get(part.file)
            if why := _size_problem(part, stamp):
                yield part, why
            elif again or (self._uri(part), stamp) not in _whole:
                waiting.append(part)
        with ThreadPoolExecutor(_READERS) as pool:
            for part, why in zip(waiting, pool.map(self._byte_problem, waiting), strict=True):
                if why:
                    yield part, why
                elif stamp := present.get(part.file):
                    _whole.add((self._uri(part), stamp))

    def check(self, parts: Iterable[Part]) -> None:
        """Raises DamagedFile if one of the parts is not what was written. What it costs: see ``damaged``."""
        for part, why in self.damaged(parts):
            raise DamagedFile(self._uri(part), why)

    def _byte_problem(self, part: Part) -> str:
        """Empty where the file is whole."""
        if part.file_digest:
            return "" if digest_file(self._uri(part)) == part.file_digest else OTHER_BYTES
        try:
            rows = read_parquet(self._uri(part))
        except DamagedFile as damage:
            return damage.why
        return "" if _content(rows) == part.content else _OTHER_ROWS

    def _uri(self, part: Part) -> str:
        return files.join(self.uri, part.file)

    def uris(self, parts: Iterable[Part] | None = None) -> list[str]:
        return [files.join(self.uri, p.file) for p in (self.parts().values() if parts is None else parts)]

    def lacks_columns(self, parts: Iterable[Part]) -> bool:
        """Were some of the parts written before the contract had all its columns? Parts of the same settings are of the
        same version of their stage: one is asked for all."""
        names, one_of_each = set(self.contract.schema().names), {part.fingerprint.settings: part for part in parts}
        return any(not names <= set(self._schema(part).names) for part in one_of_each.values())

    def read(self, part: Part) -> pa.Table:
        """Raises DamagedFile if the file is not what was written."""
        rows = read_parquet(self._uri(part))
        if not part.file_digest and _content(rows) != part.content:
            raise DamagedFile(self._uri(part), _OTHER_ROWS)
        schema = self.contract.schema()
        for field in schema:  # a column that came later, and is null in older parts
            if field.nullable and field.name not in rows.column_names:
                rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        return rows.select(schema.names).cast(schema)

    def settings_of(self, part: Part) -> dict[str, Any]:
        """The payload behind ``part.fingerprint.settings``. Raises DamagedFile if the file does not hold it."""
        settings = self._payload(part, _SETTINGS_KEY)
        if settings and digest(settings) != part.fingerprint.settings:
            raise DamagedFile(self._uri(part), "the settings in it are not those that it was made with")
        return settings

    def inputs_of(self, part: Part) -> dict[str, Any]:
        """The payload behind ``part.fingerprint.inputs``; empty where the part was written without."""
        return self._payload(part, _INPUTS_KEY)

    def roots_of(self, part: Part) -> dict[str, str]:
        """Where the inputs lay when the part was written: input name -> root."""
        return self._payload(part, _ROOTS_KEY)

    def _payload(self, part: Part, key: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(self._metadata(part).get(key, b"{}")))
        except ValueError as error:
            raise DamagedFile(self._uri(part), f"its metadata are no whole JSON ({error})") from None

    def write(
        self,
        rows: pa.Table,
        unit: Mapping[str, str],
        fingerprint: Fingerprint,
        settings: Mapping[str, Any],
        roots: Mapping[str, str],
        inputs: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> Part:
        """Write one part under a new name and return its receipt; nobody sees it before ``commit``.

        ``rows`` lack the unit's columns or hold them; they are sorted by the table's key, so that a part's bytes do
        not depend on the order of work. ``notes`` are for readers: each stands in the file's metadata as JSON, under
        ``ssld.<name>``. pa.ArrowInvalid or KeyError when they do not fit the contract.
        """
        for name, value in unit.items():
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.array([value] * rows.num_rows, pa.string()))
        schema = self.contract.schema()
        rows = in_order(rows.select(schema.names).cast(schema), self.contract.key)
        content = _content(rows)
        payloads: dict[bytes, Any] = {f"ssld.{name}".encode(): note for name, note in (notes or {}).items()}
        payloads |= {_SETTINGS_KEY: settings, _ROOTS_KEY: roots, _INPUTS_KEY: inputs or {}}
        payloads[_FORMAT_KEY] = FORMAT
        metadata = {key: json.dumps(payload, sort_keys=True) for key, payload in payloads.items()}
        data = parquet_bytes(rows.replace_schema_metadata(metadata), self.contract)
        name = f"{fingerprint}-{content}-{digest_bytes(data)}-{uuid.uuid4().hex[:12]}.parquet"
        files.write_bytes(files.join(self.uri, name), data)
        return Part(tuple(unit[c] for c in self.contract.unit), fingerprint, content, name, rows.num_rows, len(data))

    def commit(
        self, added: Iterable[Part], removed: Iterable[Part] = (), note: Mapping[str, Any] | None = None
    ) -> None:
        """Add and remove parts in one transaction. UserError when another run committed in between.

        Whatever is committed of an added part's unit must be among ``removed``, so that no unit is ever there twice.
        """
        from deltalake import CommitProperties
        from deltalake import Schema as DeltaSchema
        from deltalake.exceptions import CommitFailedError, DeltaError
        from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

        added, removed = list(added), list(removed)
        now = int(time.time() * 1000)
        adds = [AddAction(p.file, p.size_bytes, {}, now, True, self._statistics(p)) for p in added]
        removes = [RemoveAction(p.file, True, now) for p in removed]
        if not adds and not removes:
            return
        schema = DeltaSchema.from_arrow(self.contract.schema())
        # No retries: between the look at what is live and the commit nobody else may have changed it.
        properties = CommitProperties(custom_metadata=dict(note or {}), max_commit_retries=0)
        table, last = self._open()
        version = 0 if table is None else int(table.version()) + 1  # no retries: this one, or an error
        live: dict[tuple[str, ...], Part] = {}
        try:
            if table is not None:
                live = self._parts_of(table, last)
                self._refuse_foreign_changes(live, added, removed)
                # The log's schema is its first one until a transaction replaces every part, or adds columns to it.
                if table.schema() != schema and len(removed) == len(live):
                    table.create_write_transaction(adds, mode="overwrite", schema=schema, commit_properties=properties)
                else:
                    table.create_write_transaction(
                        [*adds, *removes], mode="append", schema=schema, commit_properties=properties
                    )
                    self._name_all_columns(table, schema)
            else:
                create_table_with_add_actions(
                    self.uri,
                    schema,
                    adds,
                    mode="error",
                    name=self.contract.name,
                    description=self.contract.row,
                    commit_properties=properties,
                )
        except (CommitFailedError, DeltaError) as error:
            raise UserError(_ANOTHER_RUN.format(uri=self.uri, detail=one_line(error))) from error
        going = {part.file for part in removed}
        kept = [part for part in live.values() if part.file not in going]
        self._note_commit(version, last if table is not None else None, [*kept, *added])

    def _note_commit(self, version: int, last: LastCommit | None, parts: Iterable[Part]) -> None:
        """``parts``: those that are live as of ``version``, whatever another run has committed since."""
        first = last.version + 1 if last else version
        names = [f"{number:020d}.json" for number in range(max(first, version - 1), version + 1)]
        log = files.join(self.uri, "_delta_log")
        checkpoint = f"{version:020d}.checkpoint.parquet"  # delta-rs writes one now and then, right after the commit
        names += [checkpoint] if files.stamp(files.join(log, checkpoint)) else []
        digests = {name: digest_file(files.join(log, name)) for name in names}
        logs = {**(last.logs if last else {}), **digests}
        parts = list(parts)
        sample = sorted(part.file for part in parts)[:_SAMPLE]
        LastCommit(version, digest_parts(parts), logs, sample).write(self._workspace, self.contract.name)

    def note_last_commit(self) -> None:
        """Note the newest commit of a table that an older program wrote, or whose run was killed before the note."""
        table, last = self._open()
        if table is not None and (last is None or last.version < table.version()):
            self._note_commit(int(table.version()), last, self._parts_of(table, last).values())

    def log_damage(self) -> Iterator[DamagedFile]:
        """One error for each damaged file of the log; reads all of them."""
        last = LastCommit.read(self._workspace, self.contract.name)
        yield from log_damage(self._workspace, self.contract.name, last)

    def _name_all_columns(self, table: Any, schema: Any) -> None:
        """Adds to the log's schema the columns that it lacks, once every part has them: parts are replaced over many
        commits when their stage comes to write more."""
        known = {field.name for field in table.schema().fields}
        missing = [field for field in schema.fields if field.name not in known]
        if missing and all(field.nullable for field in missing) and not self.lacks_columns(self.parts().values()):
            table.update_incremental()
            table.alter.add_columns(missing)

    def describe(self, notes: Mapping[str, Any]) -> None:
        """Notes for readers as the Delta table's properties ``ssld.<name>``, JSON; nothing happens where they are so
        already, or where there is no table yet. UserError when another run committed in between."""
        from deltalake.exceptions import CommitFailedError, DeltaError

        table, _ = self._open()
        if table is None:
            return
        properties = {f"ssld.{name}": json.dumps(note, sort_keys=True) for name, note in notes.items()}
        if properties.items() <= table.metadata().configuration.items():
            return
        try:  # delta-rs takes properties of other names than its own here, but not while it creates a table
            table.alter.set_table_properties(properties, raise_if_not_exists=False)
        except (CommitFailedError, DeltaError) as error:
            raise UserError(_ANOTHER_RUN.format(uri=self.uri, detail=one_line(error))) from error

    def notes_of(self, part: Part) -> dict[str, Any]:
        """The notes that a part was written with, by name."""
        known = (_SETTINGS_KEY, _INPUTS_KEY, _ROOTS_KEY, _FORMAT_KEY)
        found = {key.decode(): value for key, value in self._metadata(part).items() if key not in known}
        return {k.removeprefix("ssld."): json.loads(v) for k, v in found.items() if k.startswith("ssld.")}

    def _refuse_foreign_changes(
        self, live: Mapping[tuple[str, ...], Part], added: list[Part], removed: list[Part]
    ) -> None:
        going = {p.file for p in removed}
        gone = going - {p.file for p in live.values()}
        taken = [p.unit for p in added if p.unit in live and live[p.unit].file not in going]
        if gone or taken:
            raise UserError(
                _ANOTHER_RUN.format(uri=self.uri, detail=f"changed meanwhile: {sorted(gone)[:3]} {taken[:3]}")
            )

    def num_orphans_removed(self, older_than_hours: float) -> int:
        """Delete part files that no version of the log names, and too old to be somebody's work in progress. None where
        an entry of the log cannot be read: it may name them."""
        if not files.is_local(self.uri) or not files.local_path(self.uri).is_dir():
            return 0
        try:
            named = self._files_ever_added()
        except ValueError:
            return 0
        limit = time.time() - older_than_hours * 3600
        orphans = [
            f for f in files.local_path(self.uri).glob("*.parquet") if f.name not in named and f.stat().st_mtime < limit
        ]
        for file in orphans:
            file.unlink(missing_ok=True)
        return len(orphans)

    def _files_ever_added(self) -> set[str]:
        names: set[str] = {p.file for p in self.parts().values()}
        for log in (files.local_path(self.uri) / "_delta_log").glob("*.json"):
            for line in log.read_text().splitlines():
                if path := json.loads(line).get("add", {}).get("path"):
                    names.add(path)
        return names

    def _open(self) -> tuple[Any, LastCommit | None]:
        """The log, None where there is none, and the note on its last commit. DamagedFile if the log lacks that commit.

        The note is read first: a commit in between makes the log newer than it, never older.
        """
        name = self.contract.name
        last = LastCommit.read(self._workspace, name)
        table = self._open_log(last)
        if last and table is None and (name == "rejects" or any(self._is_there(file) for file in last.sample)):
            raise damaged_log(self._workspace, name, last, "it is missing")
        if last and table is not None and table.version() < last.version:
            why = f"it ends at version {table.version()}, version {last.version} was committed"
            raise damaged_log(self._workspace, name, last, why)
        return table, last

    def _is_there(self, file: str) -> bool:
        return files.exists(files.join(self.uri, file))

    def _open_log(self, last: LastCommit | None) -> Any:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            return DeltaTable(self.uri) if DeltaTable.is_deltatable(self.uri) else None
        except OSError as error:
            raise UserError(f"the workspace cannot be read: {self.uri}: {one_line(error)}") from None
        except DeltaError as error:
            raise damaged_log(self._workspace, self.contract.name, last, one_line(error)) from None

    def _parts_of(self, table: Any, last: LastCommit | None) -> dict[tuple[str, ...], Part]:
        parts = self._listed(table)
        if last and table.version() == last.version and digest_parts(parts.values()) != last.parts:
            raise damaged_log(self._workspace, self.contract.name, last, "it does not list what was committed")
        return parts

    def _listed(self, table: Any) -> dict[tuple[str, ...], Part]:
        parts: dict[tuple[str, ...], Part] = {}
        for row in pa.table(table.get_add_actions(flatten=True)).to_pylist():
            match = NAME.fullmatch(row["path"])
            if match is None:
                raise UserError(
                    f"{self.uri}: {row['path']} was not written by this pipeline (was the table compacted or edited?). "
                    "Restore an earlier version of the table, or delete its folder to compute it again"
                )
            unit = tuple(row[f"min.{c}"] for c in self.contract.unit)
            if unit in parts:
                raise UserError(
                    f"{self.uri}: part {unit} is there twice; delete the table's folder to compute it again"
                )
            parts[unit] = Part(
                unit,
                Fingerprint(match["settings"], match["inputs"]),
                match["content"],
                row["path"],
                row["num_records"],
                row["size_bytes"],
            )
        return parts

    def _statistics(self, part: Part) -> str:
        unit = dict(zip(self.contract.unit, part.unit, strict=True))
        return json.dumps(
            {
                "numRecords": part.num_rows,
                "minValues": unit,
                "maxValues": unit,
                "nullCount": dict.fromkeys(self.contract.unit, 0),
            }
        )

    def _metadata(self, part: Part) -> dict[bytes, bytes]:
        metadata = dict(self._schema(part).metadata or {})
        require_known_format(self._uri(part), int(metadata.get(_FORMAT_KEY, 1)), FORMAT)
        return metadata

    def _schema(self, part: Part) -> pa.Schema:
        try:
            with fsspec.open(self._uri(part), "rb") as file:
                return pq.read_schema(file)
        except FileNotFoundError:
            raise DamagedFile(self._uri(part), MISSING) from None
        except (pa.ArrowException, OSError) as error:
            raise DamagedFile(self._uri(part), f"it is no whole Parquet file ({one_line(error)})") from None


_OTHER_ROWS = "its rows are not those that were written"


def _size_problem(part: Part, stamp: files.Stamp | None) -> str:
    """Empty where the file has its size."""
    if stamp is None:
        return MISSING
    if stamp.size_bytes != part.size_bytes:
        return f"it has {stamp.size_bytes:,} bytes, {part.size_bytes:,} were written"
    return ""


def _content(rows: pa.Table) -> str:
    """The digest of a part's rows: 120 MB/s. Arrow names the items of a list otherwise when they come from Parquet."""
    fields = [f.with_type(pa.list_(f.type.value_type)) if pa.types.is_list(f.type) else f for f in rows.schema]
    return digest_rows(rows.cast(pa.schema(fields)), without=_LOCATION_COLUMNS)
