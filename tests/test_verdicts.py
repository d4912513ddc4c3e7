"""Verdicts on the evidence: thresholds, lists that allow and deny, inputs that are only reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import mini
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import verb
from test_run import assert_lawful, bring, planned, ran

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import CATALOG, DUPLICATES, PAIRS, REMOVED, VERDICTS
from ssld_pipeline.copies.decision import MAX_BELOW_BEST, is_copy
from ssld_pipeline.errors import UserError
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.queries.status import list_effects, workspace_status
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.stages import dedupe, find_copies
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.verify.laws import laws

Rows = list[dict[str, Any]]
POOL = [f"pool/{k}" for k in range(6)]
PROTECTED = ["labeled/a", "labeled/b", "protected/a", "val2/o'hara"]
tried = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def configured(**settings: Any) -> RunConfig:
    inputs = {role: [{"uri": role, "format": "folder"}] for role in ("labeled", "protected", "pool")}
    inputs["protected"].append({"uri": "val2", "format": "folder", "name": "val2"})
    networks = {"teacher": {"model": "timm:none", "weights": "unused"}, "student": {"model": "timm:none"}}
    against = {"against": ["labeled", "protected"]}
    return RunConfig.model_validate(
        {"workspace": "unused", "inputs": inputs, **networks, "dedupe": {**against, **settings}}
    )


def pair(image_id: str, protected_id: str, method: str = "sift", **evidence: Any) -> dict[str, Any]:
    agreement = {"score": 0.9, "num_blocks": 40, "coverage": 1.0, "explained": 0.0}
    figures = {"num_matches": 30, "num_inliers": 20, **agreement, **evidence}
    matrix = [1.0, 0, 0, 0, 1, 0, 0, 0, 1]
    names = {"image_id": image_id, "protected_id": protected_id, "method": method}
    return {**names, **figures, "homography": matrix, "flipped": False, "part": "p"}


@st.composite
def evidence(draw: st.DrawFn) -> Rows:
    keys = draw(st.lists(st.tuples(st.sampled_from(POOL), st.sampled_from(PROTECTED)), unique=True, max_size=16))
    score = st.sampled_from([0.1, 0.29, 0.3, 0.4, 0.45, 0.54, 0.7, 0.95, 1.0])
    return [
        pair(
            *key,
            method=draw(st.sampled_from(["exact", "sift", "sift", "perceptual"])),
            score=draw(score),
            num_inliers=draw(st.integers(3, 12)),
            num_blocks=draw(st.sampled_from([1, 7, 8, 31, 32])),
            coverage=draw(st.sampled_from([0.1, 0.15, 0.49, 0.5, 1.0])),
            explained=draw(st.sampled_from([None, 0.1, 0.45, 0.51, 0.57, 0.8, 1.0])),
        )
        for key in keys
    ]


LISTS = st.lists(st.sampled_from([None, None, "allow", "deny"]), min_size=len(POOL), max_size=len(POOL))
REPORTED = st.sampled_from([(), ("labeled",), ("val2",), ("labeled", "protected")])


def tables_of(pairs: Rows, pool: list[str] = POOL) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    rows = [(image, "pool") for image in pool] + [(image, image.split("/")[0]) for image in PROTECTED]
    catalog = [{"image_id": i, "role": "protected" if r == "val2" else r, "part": "p"} for i, r in rows]
    connection.register("catalog", pa.Table.from_pylist(catalog, schema=CATALOG.schema()))
    connection.register("pairs", pa.Table.from_pylist(pairs, schema=PAIRS.schema()))
    return connection


def decided(pairs: Rows, config: RunConfig) -> Rows:
    """By image_id and protected_id, as they are written."""
    rows = dedupe.decide(tables_of(pairs), config)
    return (
        rows.cast(DUPLICATES.row_schema())
        .sort_by([("image_id", "ascending"), ("protected_id", "ascending")])
        .to_pylist()
    )


def written(folder: Path, lists: list[str | None]) -> dict[str, str]:
    """The settings allow and deny, after writing POOL[k] to the file lists[k]."""
    for name in ("allow", "deny"):
        ids = [image for image, own in zip(POOL, lists, strict=True) if own == name]
        (folder / name).write_text("# by hand\n" + "".join(f"{image}\n" for image in ids))
    return {name: str(folder / name) for name in ("allow", "deny")}


def sufficient(pairs: Rows) -> set[tuple[str, str]]:
    """The pairs whose own evidence is enough, as the decision has it."""
    rule = is_copy(dedupe.thresholds(configured().dedupe))
    return set(tables_of(pairs).execute(f"SELECT image_id, protected_id FROM pairs WHERE {rule}").fetchall())


def expected(pairs: Rows, lists: list[str | None], reported: tuple[str, ...]) -> dict[tuple[str, str | None], str]:
    """(image_id, protected_id) -> verdict: what lists, reported inputs and better pairs make of the evidence."""
    inputs = {name for role in reported for name in {"protected": ("protected", "val2")}.get(role, (role,))}
    on, enough = dict(zip(POOL, lists, strict=True)), sufficient(pairs)

    def suffices(row: dict[str, Any]) -> bool:
        return (row["image_id"], row["protected_id"]) in enough

    def input_of(row: dict[str, Any]) -> tuple[str, str]:
        return row["image_id"], row["protected_id"].split("/")[0]

    def counts(row: dict[str, Any]) -> bool:
        best = max((r["score"] for r in pairs if suffices(r) and input_of(r) == input_of(row)), default=0)
        return suffices(row) and row["score"] > best - MAX_BELOW_BEST - 1e-4

    found: dict[tuple[str, str | None], str] = {}
    for row in pairs:
        verdict = "copy" if on[row["image_id"]] != "allow" else "allowed"
        verdict = "reported" if row["protected_id"].split("/")[0] in inputs else verdict
        found[row["image_id"], row["protected_id"]] = verdict if counts(row) else "no_copy"
    for image in (image for image in POOL if on[image] == "deny"):
        own = [row for row in pairs if row["image_id"] == image]
        best = min(own, key=lambda r: (not counts(r), -r["score"], r["protected_id"]), default=None)
        found[image, best["protected_id"] if best else None] = "denied"
    return found


@tried
@given(evidence(), LISTS, REPORTED)
def test_every_combination_has_the_verdict_it_should_have(
    tmp_path: Path, pairs: Rows, lists: list[str | None], reported: tuple[str, ...]
) -> None:
    rows = decided(pairs, configured(**written(tmp_path, lists), report_only=reported))
    assert {(r["image_id"], r["protected_id"]): r["verdict"] for r in rows} == expected(pairs, lists, reported)
    assert len(rows) == len(expected(pairs, lists, reported)), "no pair twice"
    assert all(r["is_duplicate"] == (r["verdict"] in REMOVED) and r["verdict"] in VERDICTS for r in rows)
    given_rows = {(r["image_id"], r["protected_id"]): r for r in pairs}
    for row in rows:
        source = given_rows.get((row["image_id"], row["protected_id"]))
        kept = {k: v for k, v in row.items() if k not in ("verdict", "is_duplicate")}
        if source is None:
            assert kept["method"] == "denied" and kept["homography"] is None and kept["num_inliers"] == 0
        else:
            shares = ("score", "coverage", "explained")
            told = {k: pytest.approx(v) if k in shares else v for k, v in source.items() if k != "part"}
            assert kept == {**told, "role": "pool"}
    removed = {r["image_id"] for r in rows if r["is_duplicate"]}
    on = dict(zip(POOL, lists, strict=True))
    assert all((image in removed) is (name == "deny") for image, name in on.items() if name)


@tried
@given(evidence(), LISTS, REPORTED, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(
    tmp_path: Path, pairs: Rows, lists: list[str | None], reported: tuple[str, ...], random: Any
) -> None:
    config = configured(**written(tmp_path, lists), report_only=reported)
    shuffled = [{**row, "part": random.choice("pq")} for row in random.sample(pairs, len(pairs))]
    assert decided(shuffled, config) == decided(pairs, config)


@tried
@given(evidence(), LISTS, REPORTED)
def test_whatever_is_decided_obeys_the_laws(
    tmp_path: Path, pairs: Rows, lists: list[str | None], reported: tuple[str, ...]
) -> None:
    config = configured(**written(tmp_path, lists), report_only=reported)
    assert not broken_laws(decided(pairs, config), config)


def broken_laws(duplicates: Rows, config: RunConfig) -> set[str]:
    connection = tables_of([])
    rows = [{**row, "part": "dedupe"} for row in duplicates]
    connection.register("duplicates", pa.Table.from_pylist(rows, schema=DUPLICATES.schema()))
    dedupe.register_lists(connection, config.dedupe)
    checked = [
        law for law in laws(config.select) if law.name.startswith("duplicates_") and "manifest" not in law.broken
    ]
    assert len(checked) == 6
    return {law.name for law in checked if connection.execute(law.broken).fetchall()}


def test_wrong_verdicts_break_the_laws(tmp_path: Path) -> None:
    config = configured(**written(tmp_path, ["allow", "deny", None, None, None, None]))
    rows = {(r["image_id"]): r for r in decided([pair(image, "protected/a") for image in POOL[:3]], config)}
    assert [rows[image]["verdict"] for image in POOL[:3]] == ["allowed", "denied", "copy"]

    def broken(image: str, **change: Any) -> set[str]:
        return broken_laws([{**row, **(change if name == image else {})} for name, row in rows.items()], config)

    assert not broken(POOL[0])
    assert broken(POOL[2], verdict="copied") == {"duplicates_verdict"}
    assert broken(POOL[2], is_duplicate=False) == {"duplicates_verdict"}
    assert broken(POOL[0], verdict="copy", is_duplicate=True) == {"duplicates_lists"}
    assert broken(POOL[1], verdict="no_copy", is_duplicate=False) == {"duplicates_lists"}
    assert broken(POOL[2], protected_id="protected/gone") == {"duplicates_of"}
    assert broken(POOL[2], protected_id=None) == {"duplicates_of"}
    both = [*rows.values(), {**rows[POOL[0]], "protected_id": "labeled/a", "verdict": "copy", "is_duplicate": True}]
    assert broken_laws(both, config) == {"duplicates_allowed", "duplicates_lists"}


def test_ids_that_match_nothing_are_counted_and_ids_on_both_lists_refused(tmp_path: Path) -> None:
    lists = written(tmp_path, ["allow", "deny", None, None, None, None])
    with (tmp_path / "deny").open("a") as file:
        file.write("pool/typo\nprotected/a\n")
    config, tables = configured(**lists), tables_of([pair("pool/0", "protected/a"), pair("pool/2", "protected/a")])
    rows = dedupe.decide(tables, config)
    assert dedupe.figures(rows) == {"removed": 2, "allowed": 1, "copy": 1, "denied": 1, "unknown in dedupe.deny": 2}
    tables.register("duplicates", rows)
    allow, deny = list_effects(tables, config)
    assert (allow["list"], allow["ids"], allow["in_effect"], allow["unknown"]) == ("dedupe.allow", 1, 1, 0)
    assert (deny["ids"], deny["known"], deny["in_effect"]) == (3, 1, 1)
    assert deny["examples"] == "pool/typo, protected/a"
    (tmp_path / "allow").write_text("pool/1\n")
    with pytest.raises(UserError, match=r"1 image_ids stand on both lists, the first is pool/1"):
        dedupe.decide(tables, configured(**lists))


def test_a_policy_reruns_the_decision_alone() -> None:
    lists = configured(report_only=("labeled",), allow="a.txt", deny="b.txt")
    assert find_copies.STAGE.settings(lists) == find_copies.STAGE.settings(configured())
    assert dedupe.STAGE.settings(lists)["report_only"] == ["labeled"]
    assert dedupe.STAGE.side_files(lists) == {"dedupe.allow": ("a.txt",), "dedupe.deny": ("b.txt",)}


# Whole runs


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file; everything up to label has run, against the labelled images too, of which the pool has a copy."""
    folder = tmp_path_factory.mktemp("verdicts") / "runs"
    against = {"canaries": 0, "against": ["protected", "labeled"], "min_score": 0.6}
    path = mini.write_world(folder, dedupe=against, finetune=None, baseline=None)
    leak = (folder / "inputs/train/disc/0.jpg").read_bytes()
    mini.write_tar(folder / "inputs/pool/pool-2.tar", {"trained.jpg": leak, "torn.jpg": leak[:900]})
    bring(load_config(path), until="label")
    return path


COPIES = ["pool/pool-0.tar/copy.jpg", "pool/pool-1.tar/copy.jpg", "pool/pool-2.tar/trained.jpg"]


def removed_by(config: RunConfig) -> list[str]:
    query = "SELECT DISTINCT image_id FROM duplicates WHERE is_duplicate ORDER BY 1"
    return [row["image_id"] for row in rows_of(Workspace(config.workspace), query)]


def test_lists_redo_the_decision_and_the_parts_they_touch(done: Path) -> None:
    bring(load_config(done), until="label")
    assert removed_by(load_config(done)) == COPIES
    other, torn = "pool/pool-1.tar/003.jpg", "pool/pool-2.tar/torn.jpg"
    (done.parent / "keep.txt").write_text(f"{COPIES[0]}\npool/pool-0.tar/typo.jpg\n")
    (done.parent / "drop.txt").write_text(f"# seen by hand\n{other}\n{torn}\n")
    lists = ("dedupe.allow=keep.txt", "dedupe.deny=drop.txt")
    listed = load_config(done, lists)
    assert [s for s, p in planned(listed).items() if p.of("run")][:1] == ["dedupe"]
    assert "side_files.dedupe.allow" in planned(listed)["dedupe"].reasons()[0][0]
    reports = bring(listed, until="label")
    assert ran(reports) == {"dedupe": 1, "label": 2}, "the two parts whose images changed"
    assert reports["dedupe"].figures["unknown in dedupe.allow"] == 1
    assert removed_by(listed) == sorted([*COPIES[1:], other, torn])
    assert_lawful(listed)
    found = workspace_status(Workspace(listed.workspace), listed)
    assert {row["verdict"]: row["images"] for row in found["verdicts"]}["denied"] == 2
    assert found["lists"][0]["examples"] == "pool/pool-0.tar/typo.jpg"
    page = Path(verb("report", done, "--set", lists[0], "--set", lists[1]).strip()).read_text(encoding="utf-8")
    assert "pool/pool-0.tar/typo.jpg" in page and "denied" in page
    (done.parent / "keep.txt").write_text("")
    assert ran(bring(listed, until="label")).keys() == {"dedupe", "label"}
    assert COPIES[0] in removed_by(listed)


def test_what_is_reported_stays_and_nothing_is_searched_again(done: Path) -> None:
    bring(load_config(done), until="label")
    config = load_config(done, ("dedupe.report_only=[labeled]",))
    assert planned(config)["dedupe"].reasons() == [('config.report_only: [] -> ["labeled"]', 1)]
    assert ran(bring(config, until="label")) == {"dedupe": 1, "label": 1}
    assert removed_by(config) == COPIES[:2]
    rows = rows_of(
        Workspace(config.workspace), "SELECT image_id, protected_id FROM duplicates WHERE verdict = 'reported'"
    )
    assert {"image_id": COPIES[2], "protected_id": "labeled/disc/0.jpg"} in rows
    assert_lawful(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dedupe.report_only=[train]", "dedupe.report_only: 'train' is neither a role nor an input"),
        ("dedupe.report_only=[pool]", "dedupe.report_only: copies of 'pool' are not searched"),
        ("dedupe.allow=nowhere.txt", "dedupe.allow: .*nowhere.txt"),
    ],
)
def test_a_mistake_is_found_before_the_search(done: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        survey(load_config(done, (override,)))
