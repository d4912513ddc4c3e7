"""Tables, artifacts and fingerprints: what readers see, and what a crash or a second driver can do."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssld_pipeline.contracts import REJECTS, TABLES
from ssld_pipeline.errors import UserError
from ssld_pipeline.store.artifacts import ArtifactStore
from ssld_pipeline.store.fingerprints import Fingerprint, digest, digest_rows, explain_change
from ssld_pipeline.store.parquet_files import in_order
from ssld_pipeline.store.part import Part
from ssld_pipeline.store.tables import TableStore
from ssld_pipeline.store.workspace import Workspace

FIRST = Fingerprint.of({"a": 1}, {"b": 1})
SECOND = Fingerprint.of({"a": 2}, {"b": 1})


def rejects(*ids: str, reason: str = "empty_file") -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array(ids, pa.string()),
            "reason": pa.array([reason] * len(ids), pa.string()),
            "detail": pa.array([""] * len(ids), pa.string()),
        }
    )


def write(table: TableStore, part: str, rows: pa.Table, fingerprint: Fingerprint = FIRST) -> Part:
    return table.write(rows, {"stage": "label", "part": part}, fingerprint, {"a": 1}, {"pool": "/pool"})


def test_nothing_is_seen_before_the_commit_and_all_of_it_after(tmp_path: Path) -> None:
    table = TableStore(str(tmp_path), REJECTS)
    part = write(table, "p#0", rejects("x", "y"))
    assert table.parts() == {} and table.version() is None
    table.commit([part])
    assert table.parts() == {("label", "p#0"): part}
    assert table.read(part)["image_id"].to_pylist() == ["x", "y"]
    assert table.settings_of(part) == {"a": 1} and table.roots_of(part) == {"pool": "/pool"}


@pytest.mark.parametrize("remote", [False, True])
def test_parts_of_two_versions_are_read_together_and_readers_get_the_column_at_last(
    tmp_path: Path, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that may be null was added to the contract, and the parts are replaced one commit after another."""
    from dataclasses import replace

    from deltalake import DeltaTable

    late = replace(REJECTS, columns=tuple(replace(c, nullable=c.name == "detail") for c in REJECTS.columns))
    early = replace(late, columns=tuple(c for c in late.columns if c.name != "detail"))
    table, names = TableStore(str(tmp_path), early), ("p#0", "q#0", "r#0")
    old = [write(table, name, rejects(name[0])) for name in names]
    table.commit(old)
    table = TableStore(str(tmp_path), late)
    workspace = Workspace(str(tmp_path))
    workspace.tables[REJECTS.name] = table

    def details() -> list[tuple[str, str | None]]:
        with monkeypatch.context() as patched:  # remote files are read through Arrow, without DuckDB's extension
            patched.setattr("ssld_pipeline.store.files.is_local", lambda uri: not remote)
            tables = workspace.connect(REJECTS.name)
        return tables.execute("SELECT image_id, detail FROM rejects ORDER BY 1").fetchall()

    def published() -> set[str]:
        return set(DeltaTable(table.uri).to_pyarrow_table().column_names)

    assert details() == [("p", None), ("q", None), ("r", None)]
    for number, (name, part) in enumerate(zip(names, old, strict=True)):
        assert "detail" not in published()
        table.commit([write(table, name, rejects(name[0]), SECOND)], [part])
        assert details() == [("p", ""), ("q", "" if number else None), ("r", "" if number > 1 else None)]
    assert "detail" in published()
    assert DeltaTable(table.uri).to_pyarrow_table()["detail"].to_pylist() == ["", "", ""]


def test_replacing_a_part_is_one_transaction_and_history_keeps_the_old_one(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    table = TableStore(str(tmp_path), REJECTS)
    old, other = write(table, "p#0", rejects("x")), write(table, "q#0", rejects("z"))
    table.commit([old, other])
    new = write(table, "p#0", rejects("x", "y"), SECOND)
    table.commit([new], [old])
    assert {p.file for p in table.parts().values()} == {new.file, other.file}
    assert DeltaTable(table.uri, version=0).to_pyarrow_table().num_rows == 2


def test_readers_see_a_new_column_once_every_part_has_it(tmp_path: Path) -> None:
    from dataclasses import replace

    from deltalake import DeltaTable

    def columns() -> list[tuple[str, bool]]:
        return [(f.name, f.nullable) for f in DeltaTable(table.uri).schema().fields if f.name in ("reason", "detail")]

    *kept, part = (replace(c, nullable=c.name == "reason") for c in REJECTS.columns if c.name != "detail")
    table = TableStore(str(tmp_path), replace(REJECTS, columns=(*kept, part)))
    old, other = write(table, "p#0", rejects("x")), write(table, "q#0", rejects("z"))
    table.commit([old, other])
    table = TableStore(str(tmp_path), REJECTS)
    new = [write(table, name, rejects("y"), SECOND) for name in ("p#0", "q#0")]
    table.commit(new[:1], [old])
    assert columns() == [("reason", True)], "other parts lack the column"
    table.commit(new, [new[0], other])
    assert columns() == [("reason", False), ("detail", False)]
    assert {p.file for p in table.parts().values()} == {p.file for p in new}
    assert DeltaTable(table.uri).to_pyarrow_table()["image_id"].to_pylist() == ["y", "y"]
    assert DeltaTable(table.uri, version=0).to_pyarrow_table().num_rows == 2


def test_a_second_driver_is_refused_instead_of_writing_rows_twice(tmp_path: Path) -> None:
    table = TableStore(str(tmp_path), REJECTS)
    part = write(table, "p#0", rejects("x"))
    table.commit([part])
    mine, theirs = write(table, "p#0", rejects("x"), SECOND), write(table, "p#0", rejects("x"), SECOND)
    table.commit([theirs], [part])
    with pytest.raises(UserError, match="another run"):
        table.commit([mine], [part])
    assert [p.file for p in table.parts().values()] == [theirs.file]


def test_a_part_without_rows_is_a_part(tmp_path: Path) -> None:
    table = TableStore(str(tmp_path), REJECTS)
    table.commit([write(table, "p#0", rejects())])
    assert [(p.unit, p.num_rows) for p in table.parts().values()] == [(("label", "p#0"), 0)]


def test_a_table_somebody_compacted_is_a_clear_error(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    table = TableStore(str(tmp_path), REJECTS)
    table.commit([write(table, "p#0", rejects("x")), write(table, "q#0", rejects("y"))])
    DeltaTable(table.uri).optimize.compact()
    with pytest.raises(UserError, match="not written by this pipeline"):
        table.parts()


def test_rows_that_break_the_contract_are_not_written(tmp_path: Path) -> None:
    table = TableStore(str(tmp_path), REJECTS)
    with pytest.raises((KeyError, ValueError)):
        write(table, "p#0", rejects("x").drop(["reason"]))
    with pytest.raises((TypeError, ValueError)):
        write(table, "p#0", rejects("x").set_column(1, "reason", pa.array([None], pa.string())))


def test_orphans_go_once_they_are_old_and_no_version_names_them(tmp_path: Path) -> None:
    table = TableStore(str(tmp_path), REJECTS)
    old = write(table, "p#0", rejects("x"))
    table.commit([old])
    new = write(table, "p#0", rejects("y"))
    table.commit([new], [old])
    orphan = write(table, "q#0", rejects("z"))
    assert table.num_orphans_removed(older_than_hours=1) == 0
    assert table.num_orphans_removed(older_than_hours=-1) == 1
    assert not (tmp_path / "rejects" / orphan.file).exists()
    assert (tmp_path / "rejects" / old.file).exists(), "history still names it"


def test_bytes_of_a_part_do_not_depend_on_the_order_of_work(tmp_path: Path) -> None:
    table = TableStore(str(tmp_path), REJECTS)
    one, two = write(table, "p#0", rejects("a", "b", "c")), write(table, "p#0", rejects("c", "a", "b"))
    assert one.content == two.content
    assert (tmp_path / "rejects" / one.file).read_bytes() == (tmp_path / "rejects" / two.file).read_bytes()


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_readable_by_duckdb_and_pyarrow_when_empty(tmp_path: Path, name: str) -> None:
    with Workspace(str(tmp_path)).connect() as tables:
        assert tables.execute(f'SELECT count(*) FROM "{name}"').fetchone() == (0,)
        assert [c[0] for c in tables.execute(f'DESCRIBE "{name}"').fetchall()] == TABLES[name].schema().names


def test_other_readers_open_the_parts(tmp_path: Path) -> None:
    table = TableStore(str(tmp_path), REJECTS)
    part = write(table, "p#0", rejects("x"))
    table.commit([part])
    path = str(tmp_path / "rejects" / part.file)
    assert pq.read_table(path).to_pylist() == duckdb.sql(f"SELECT * FROM '{path}'").to_arrow_table().to_pylist()


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3))
PAYLOADS = st.recursive(
    st.dictionaries(st.text("abc", min_size=1, max_size=2), LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(PAYLOADS, PAYLOADS)
def test_a_change_is_explained_exactly_when_digests_differ(old: dict[str, object], new: dict[str, object]) -> None:
    assert bool(explain_change(old, new)) == (digest(old) != digest(new))


def test_explanations_name_field_old_and_new() -> None:
    changes = explain_change({"config": {"per_class": 350, "x": 1}}, {"config": {"per_class": 400}})
    assert changes == ["config.per_class: 350 -> 400", "config.x: 1 -> absent"]


def test_what_has_no_stable_bytes_has_no_digest() -> None:
    with pytest.raises((TypeError, ValueError)):
        digest({"x": float("nan")})
    with pytest.raises(TypeError):
        digest({"x": {1, 2}})


@given(
    st.lists(
        st.tuples(
            st.text(max_size=4),
            st.one_of(st.none(), st.integers(0, 9)),
            st.lists(st.floats(0, 1, width=32), max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    st.data(),
)
def test_digest_of_rows_sees_values_not_chunks(
    rows: list[tuple[str, int | None, list[float]]], data: st.DataObject
) -> None:
    schema = pa.schema({"a": pa.string(), "b": pa.int32(), "c": pa.list_(pa.float32())})
    table = pa.Table.from_pylist([dict(zip("abc", r, strict=True)) for r in rows], schema=schema)
    cut = data.draw(st.integers(0, len(rows)))
    assert digest_rows(pa.concat_tables([table.slice(0, cut), table.slice(cut)])) == digest_rows(table)
    place = data.draw(st.integers(0, len(rows) - 1))
    other = [list(r) for r in rows]
    other[place][0] += "!"
    changed = pa.Table.from_pylist([dict(zip("abc", r, strict=True)) for r in other], schema=schema)
    assert digest_rows(changed) != digest_rows(table)
    assert digest_rows(changed, without=["a"]) == digest_rows(table, without=["a"])


def test_an_artifact_without_record_is_not_there_and_versions_do_not_mix(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path), "train")
    folder = Path(store.folder(FIRST))
    folder.mkdir(parents=True)
    (folder / "student.safetensors").write_bytes(b"one")
    assert store.record() is None
    first = store.commit(
        FIRST, {"a": 1}, {"top1": 0.5}, names=("student.safetensors",), published=("student.safetensors",)
    )
    assert store.record() == first and (tmp_path / "train" / "student.safetensors").read_bytes() == b"one"
    Path(store.folder(SECOND)).mkdir()
    (Path(store.folder(SECOND)) / "student.safetensors").write_bytes(b"two")
    second = store.commit(SECOND, {"a": 2}, {}, names=("student.safetensors",), published=("student.safetensors",))
    assert second.content != first.content and (folder / "student.safetensors").read_bytes() == b"one"
    store.remove_others(SECOND)
    assert not folder.exists() and (tmp_path / "train" / "student.safetensors").read_bytes() == b"two"


@settings(max_examples=200)
@given(st.lists(st.lists(st.text(alphabet="abü\uffff\U00010000", max_size=4), max_size=9), max_size=5), st.booleans())
def test_rows_of_several_sorted_runs_are_written_in_order(runs: list[list[str]], distinct: bool) -> None:
    keys = [key for run in runs for key in sorted(run)]
    keys = list(dict.fromkeys(keys)) if distinct else keys
    rows = pa.table({"key": pa.array(keys, pa.string()), "place": pa.array(range(len(keys)), pa.int64())})
    assert in_order(rows, ("key", "place")).equals(rows.sort_by([("key", "ascending"), ("place", "ascending")]))
