"""The files of a Delta log, looked at one by one: which of them is missing, cut or changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from ssld_pipeline.store import files
from ssld_pipeline.store.damage import DamagedFile
from ssld_pipeline.store.fingerprints import digest_bytes
from ssld_pipeline.store.last_commit import LastCommit

_OTHER_BYTES = "its bytes are not those that were committed"
_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint.*\.parquet")
_HEAL = (
    "Put it back from a backup, or compute the table again: remove the folder {folder} and run again (ssld run CONFIG)"
)
_HINT = "_last_checkpoint"
_HEAL_CHECKPOINT = "Remove it and {folder}/_delta_log/_last_checkpoint: the log is whole without them"
# What a stage could not use is known from here only: with rejects gone, images that were not searched for copies would
# count as searched. So everything that writes to the table is made again with it.
_HEAL_REJECTS = (
    "Put it back from a backup, or compute again what writes to it: remove {folder}, {note} and the tables catalog, "
    "pairs, looks and soft_labels in {workspace}, then run again (ssld run CONFIG)"
)


def damaged_log(workspace: str, table: str, last: LastCommit | None, fallback: str) -> DamagedFile:
    """The error for a log that cannot be used: names the first of its files that is damaged, or the log where each
    seems whole; ``fallback``: what is wrong then."""
    found = next(log_damage(workspace, table, last), None)
    log = files.join(workspace, table, "_delta_log")
    return found or DamagedFile(log, fallback, heal_of(workspace, table))


def heal_of(workspace: str, table: str) -> str:
    heal = _HEAL_REJECTS if table == "rejects" else _HEAL
    note = LastCommit.uri(workspace, table)
    return heal.format(folder=files.join(workspace, table), workspace=workspace, note=note)


def log_damage(workspace: str, table: str, last: LastCommit | None) -> Iterator[DamagedFile]:
    """One error for each damaged file of the table's log, in the order of names. Reads every file of it."""
    folder = files.join(workspace, table)
    log = files.join(folder, "_delta_log")
    names = sorted(files.stamps(log))
    versions = [int(match[1]) for name in names if (match := _ENTRY.fullmatch(name))]
    checkpoints = [int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))]
    first = max(checkpoints, default=0)  # entries before it may have been cleaned up
    noted = last.logs if last else {}
    heal = heal_of(workspace, table)
    for version in sorted(_missing(versions, first, bool(checkpoints), last)):
        yield DamagedFile(files.join(log, f"{version:020d}.json"), "it is missing", heal)
    is_complete = versions == list(range(len(versions))) and bool(versions)
    heal_checkpoint = _HEAL_CHECKPOINT.format(folder=folder) if is_complete else heal
    if _HINT in names and (hinted := _hinted_checkpoint(files.join(log, _HINT))) not in (None, *checkpoints):
        yield DamagedFile(files.join(log, f"{hinted:020d}.checkpoint.parquet"), "it is missing", heal_checkpoint)
    for name in names:
        uri = files.join(log, name)
        if _ENTRY.fullmatch(name) and (why := _entry_problem(uri, noted.get(name))):
            yield DamagedFile(uri, why, heal)
        elif _CHECKPOINT.fullmatch(name) and (why := _checkpoint_problem(uri, noted.get(name))):
            yield DamagedFile(uri, why, heal_checkpoint)


def _missing(versions: list[int], first: int, has_checkpoint: bool, last: LastCommit | None) -> set[int]:
    """Versions after the newest checkpoint without an entry."""
    gaps = {gone for one, other in pairwise(versions) for gone in range(one + 1, other) if gone > first}
    newest = max([*versions, first if has_checkpoint else -1])
    start = set() if has_checkpoint or not versions else set(range(versions[0]))
    end = set(range(newest + 1, last.version + 1)) if last else set()
    return gaps | start | end


def _entry_problem(uri: str, noted: str | None) -> str:
    """Empty where the file is whole."""
    data = files.read_bytes(uri)
    if noted:
        return "" if digest_bytes(data) == noted else _OTHER_BYTES
    try:
        lines = [json.loads(line) for line in data.decode().splitlines()]
    except ValueError as error:
        return f"it holds no whole JSON ({error})"
    return "" if lines else "it is empty"


def _hinted_checkpoint(uri: str) -> int | None:
    """Delta Lake passes over a hint that it cannot read."""
    try:
        return int(json.loads(files.read_bytes(uri))["version"])
    except (ValueError, KeyError, TypeError):
        return None


def _checkpoint_problem(uri: str, noted: str | None) -> str:
    """Empty where the file is whole, as far as is known: of a checkpoint that another program wrote there is no
    digest."""
    data = files.read_bytes(uri)
    if noted and digest_bytes(data) != noted:
        return _OTHER_BYTES
    try:
        pq.read_table(BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"it is no whole Parquet file ({' '.join(str(error).split())})"
    return ""
