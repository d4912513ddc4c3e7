"""Damaged files of a workspace: what is noticed when a table, an artifact or a record is opened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ssld_pipeline.contracts import REJECTS
from ssld_pipeline.errors import UserError
from ssld_pipeline.sealed import seal, unseal
from ssld_pipeline.store import checked_folder, files
from ssld_pipeline.store.artifacts import ArtifactStore, Record
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.damage import DamagedFile
from ssld_pipeline.store.fingerprints import Fingerprint, digest
from ssld_pipeline.store.part import Part
from ssld_pipeline.store.tables import TableStore
from ssld_pipeline.store.workspace import Workspace

FIRST = Fingerprint.of({"a": 1}, {"b": 1})


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def write(table: TableStore, part: str, *ids: str) -> Part:
    rows = pa.table({"image_id": list(ids), "reason": ["empty_file"] * len(ids), "detail": [""] * len(ids)})
    return table.write(rows, {"stage": "label", "part": part}, FIRST, {"a": 1}, {})


@pytest.fixture
def table(tmp_path: Path) -> TableStore:
    """Two commits, a part each."""
    table = TableStore(str(tmp_path), REJECTS)
    table.commit([write(table, "p", "x", "y")])
    table.commit([write(table, "q", "z")])
    return table


def file_of(table: TableStore, part: str = "p") -> Path:
    return Path(table.uri, table.parts()["label", part].file)


def test_a_changed_byte_of_a_part_is_noticed_wherever_it_is(table: TableStore) -> None:
    part, path = table.parts()["label", "p"], file_of(table)
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DamagedFile, match=f"{path.name} is damaged.*Remove this file and run again"):
            table.read(part)
        with pytest.raises(DamagedFile):
            table.check([part])
    path.write_bytes(data)
    assert table.read(part).num_rows == 2


def test_a_part_is_compared_once_and_again_when_it_was_written(
    table: TableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = list(table.parts().values())
    table.check(parts)
    read: list[str] = []
    monkeypatch.setattr("ssld_pipeline.store.tables.digest_file", lambda uri: read.append(uri) or "")
    table.check(parts)
    assert not read
    os.utime(file_of(table), ns=(1, 1))
    with pytest.raises(DamagedFile):
        table.check(parts)
    assert len(read) == 1


def test_a_part_of_an_older_program_is_checked_by_its_rows(table: TableStore) -> None:
    part, path = table.parts()["label", "p"], file_of(table)
    settings, inputs, content, _, nonce = path.stem.split("-")
    old = Part(part.unit, FIRST, content, f"{settings}-{inputs}-{content}-{nonce}.parquet", 2, part.size_bytes)
    shutil.copy(path, Path(table.uri, old.file))
    table.check([old])
    assert table.read(old).num_rows == 2
    Path(table.uri, old.file).write_bytes(file_of(table, "q").read_bytes())
    with pytest.raises(DamagedFile, match="rows are not those that were written"):
        table.read(old)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 0)])
def test_a_log_without_its_newest_commit_is_not_taken_for_an_older_one(
    table: TableStore, damage: Callable[[Path], None]
) -> None:
    newest = Path(table.uri, "_delta_log", f"{1:020d}.json")
    damage(newest)
    with pytest.raises(UserError, match=newest.name):
        table.parts()
    with pytest.raises(UserError, match=newest.name):
        table.commit([write(table, "r", "a")])


def test_a_log_that_lists_other_parts_is_noticed(table: TableStore) -> None:
    newest = Path(table.uri, "_delta_log", f"{1:020d}.json")
    newest.write_text(newest.read_text().replace('\\"numRecords\\": 1', '\\"numRecords\\": 7'))
    with pytest.raises(DamagedFile, match=newest.name):
        table.parts()


def test_another_programs_commit_and_a_killed_run_are_no_damage(table: TableStore) -> None:
    note = Path(table.uri).parent / ".last_commits/rejects.json"
    before = note.read_bytes()
    table.commit([write(table, "r", "a")])
    note.write_bytes(before)  # as if the run was killed between the commit and the note
    assert len(table.parts()) == 3
    table.note_last_commit()
    assert note.read_bytes() != before and len(table.parts()) == 3


def test_two_runs_that_commit_at_once_note_no_damage(table: TableStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one commits after this one, before this one has written its note."""
    other, mine = write(table, "s", "b"), write(table, "r", "a")
    note = TableStore._note_commit

    def late(store: TableStore, *noted: Any) -> None:
        monkeypatch.setattr(TableStore, "_note_commit", note)
        TableStore(str(Path(table.uri).parent), REJECTS).commit([other])
        note(store, *noted)

    monkeypatch.setattr(TableStore, "_note_commit", late)
    table.commit([mine])
    assert len(table.parts()) == 4
    table.note_last_commit()
    assert len(table.parts()) == 4 and not list(table.log_damage())


def test_a_table_whose_folder_was_removed_is_made_again(table: TableStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rejects/_delta_log"):
        shutil.rmtree(table.uri)
        table.parts()
    from ssld_pipeline.contracts import EVALUATIONS

    other = TableStore(str(tmp_path), EVALUATIONS)
    rows = EVALUATIONS.schema().empty_table().drop_columns(["part"])
    first = other.write(rows, {"part": "a"}, FIRST, {"a": 1}, {})
    other.commit([first])
    shutil.rmtree(other.uri)
    assert other.parts() == {}
    again = other.write(rows, {"part": "a"}, FIRST, {"a": 1}, {})
    other.commit([again])
    assert [part.file for part in other.parts().values()] == [again.file]
    shutil.rmtree(Path(other.uri, "_delta_log"))
    with pytest.raises(DamagedFile, match=r"evaluations/_delta_log/0{20}\.json is damaged: it is missing"):
        other.parts()


def test_a_view_of_a_table_with_a_missing_part_names_it(table: TableStore, tmp_path: Path) -> None:
    path = file_of(table)
    path.unlink()
    with pytest.raises(DamagedFile, match=f"{path.name} is damaged: it is missing"):
        Workspace(str(tmp_path)).connect("rejects")


@pytest.mark.parametrize("name", ["table", "record"])
def test_what_a_newer_program_wrote_is_refused(table: TableStore, tmp_path: Path, name: str) -> None:
    store, _ = artifact(tmp_path)
    path = tmp_path / (".last_commits/rejects.json" if name == "table" else "index/record.json")
    path.write_text(json.dumps(seal({**unseal(json.loads(path.read_text())), "format": 2})))
    with pytest.raises(UserError, match=r"written by a newer version of ssld_pipeline: format 2"):
        table.parts() if name == "table" else store.record()


def artifact(tmp_path: Path) -> tuple[ArtifactStore, Record]:
    store = ArtifactStore(str(tmp_path), "index")
    folder = Path(store.folder(FIRST), "0")
    folder.mkdir(parents=True)
    (folder / "big.bin").write_bytes(b"descriptor" * 1000)
    (folder / "small.bin").write_bytes(b"ids")
    return store, store.commit(FIRST, {"a": 1}, {"num": 2}, names=("0/big.bin", "0/small.bin"))


def test_an_artifact_is_read_once_per_node_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record = artifact(tmp_path)
    read: list[str] = []

    def counted(uri: str, real: Callable[[str], str] = checked_folder.digest_file) -> str:
        read.append(Path(uri).name)
        return real(uri)

    monkeypatch.setattr(checked_folder, "digest_file", counted)
    folder = store.fetch(record, tmp_path / "cache")
    assert sorted(read) == ["big.bin", "small.bin"]
    store.fetch(record, tmp_path / "cache")
    assert len(read) == 2, "another worker of the node reads nothing"
    os.utime(folder / "0/small.bin", ns=(1, 1))
    store.fetch(record, tmp_path / "cache")
    assert read[2:] == ["small.bin"]
    shutil.copytree(tmp_path / "index", tmp_path / "copy/index", copy_function=shutil.copy2)
    ArtifactStore(str(tmp_path / "copy"), "index").fetch(record, tmp_path / "cache")
    assert len(read) == 5, "a copy elsewhere is read"
    flip(folder / "0/big.bin")
    with pytest.raises(DamagedFile, match=r"0/big\.bin is damaged.*Remove this file and run again"):
        store.fetch(record, tmp_path / "cache")


def test_a_damaged_copy_of_a_remote_artifact_is_fetched_again(tmp_path: Path) -> None:
    store, record = artifact(tmp_path)
    remote = ArtifactStore(f"memory://{tmp_path.name}", "index")
    for name in record.files:
        files.copy(str(Path(store.folder(FIRST), name)), files.join(remote.folder(FIRST), name))
    local = remote.fetch(record, tmp_path / "cache")
    flip(local / "0/big.bin")
    assert (remote.fetch(record, tmp_path / "cache") / "0/big.bin").read_bytes() == b"descriptor" * 1000
    files.write_bytes(files.join(remote.folder(FIRST), "0/big.bin"), b"other bytes")
    flip(local / "0/big.bin")
    with pytest.raises(DamagedFile, match=r"memory://.*0/big\.bin is damaged"):
        remote.fetch(record, tmp_path / "cache")


def test_a_record_with_a_changed_figure_is_damaged_and_one_of_an_older_program_is_read(tmp_path: Path) -> None:
    store, record = artifact(tmp_path)
    path = tmp_path / "index/record.json"
    value = json.loads(path.read_text())
    path.write_text(path.read_text().replace('"num": 2', '"num": 3'))
    with pytest.raises(DamagedFile, match=r"record\.json is damaged.*Remove this file and run again"):
        store.record()
    assert store.usable_record() is None
    old = {name: item for name, item in value.items() if name not in ("sealed", "format", "sizes", "published")}
    path.write_text(json.dumps(old))
    found = store.record()
    assert found is not None and found.files == record.files and not store.lost(found)
    Path(store.folder(FIRST), "0/small.bin").unlink()
    assert "small.bin is missing" in store.lost(found)


def test_a_damaged_class_list_is_not_used_and_written_again(tmp_path: Path) -> None:
    names = ("disc", "square")
    ClassLists(str(tmp_path)).accept(names)
    path = tmp_path / "classes" / f"{digest(list(names))}.txt"
    flip(path)
    lists = ClassLists(str(tmp_path))
    assert lists.names(digest(list(names))) is None
    assert [error.uri for error in lists.damaged()] == [str(path)]
    lists.accept(names)
    assert ClassLists(str(tmp_path)).names(digest(list(names))) == names


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_where_the_inputs_lay_is_read_from_the_parts_when_its_note_is_lost(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    from ssld_pipeline.contracts import CATALOG

    workspace = Workspace(str(tmp_path))
    table, roots = workspace.tables["catalog"], {"pool": "/there", "labeled": "/train"}
    rows = CATALOG.schema().empty_table().drop_columns(["part"])
    table.commit([table.write(rows, {"part": f"{name}/a#0"}, FIRST, {"a": 1}, roots) for name in roots])
    workspace.record_roots("catalog", roots)
    damage(tmp_path / ".roots.json")
    assert Workspace(str(tmp_path)).recorded_roots("catalog") == roots


def test_the_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DamagedFile("a/b", "it is missing", "Remove it")))
    assert str(error) == "a/b is damaged: it is missing. Remove it" and error.uri == "a/b"
