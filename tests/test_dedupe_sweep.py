"""What thresholds would remove, and the list of what is removed, beside what dedupe itself decides."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import verb
from test_verdicts import COPIES, LISTS, REPORTED, Rows, configured, decided, evidence, pair, tables_of, written
from test_verdicts import done as done

from ssld_pipeline.config.load import load_config
from ssld_pipeline.copies.decision import is_copy
from ssld_pipeline.errors import UserError
from ssld_pipeline.queries.dedupe_sweep import measure
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.stages import dedupe
from ssld_pipeline.store.workspace import Workspace


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(evidence(), LISTS, REPORTED, st.data())
def test_every_figure_of_the_sweep_is_what_dedupe_would_remove(
    tmp_path: Path, pairs: Rows, lists: list[str | None], reported: tuple[str, ...], data: st.DataObject
) -> None:
    own = {"min_score": data.draw(st.sampled_from([0.45, 0.47])), "min_inliers": data.draw(st.sampled_from([6, 7]))}
    policy = {**written(tmp_path, lists), "report_only": reported}
    found = measure(tables_of(pairs), configured(**own, **policy), num_samples=2)

    def removed(**thresholds: Any) -> int:
        rows = decided(pairs, configured(**{**own, **thresholds}, **policy))
        return len({row["image_id"] for row in rows if row["is_duplicate"]})

    assert found.present["removed"] == removed()
    for cell in data.draw(st.lists(st.sampled_from(found.grid), min_size=3, max_size=3)):
        assert cell["removed"] == removed(min_score=cell["min_score"], min_inliers=cell["min_inliers"])
    for row in data.draw(st.lists(st.sampled_from(found.marginals), min_size=3, max_size=3)):
        assert row["removed"] == removed(**{row["threshold"]: row["value"]}) == found.present["removed"] + row["change"]
    by_cell = {(cell["min_score"], cell["min_inliers"]): cell["removed"] for cell in found.grid}
    assert by_cell[own["min_score"], own["min_inliers"]] == found.present["removed"]
    assert all(
        num >= by_cell[other]
        for cell, num in by_cell.items()
        for other in by_cell
        if other[0] >= cell[0] and other[1] >= cell[1]
    ), "a stricter threshold removes no more"
    for row in found.samples:
        thresholds = {row["threshold"]: {"above": 999, "below": 0}[row["side"]]}
        key = {"image_id": row["image_id"], "protected_id": row["protected_id"]}
        (given_row,) = [r for r in pairs if key.items() <= r.items()]
        turned = (
            tables_of([given_row])
            .execute(f"""
            SELECT {is_copy(dedupe.thresholds(configured(**own).dedupe))},
                   {is_copy(dedupe.thresholds(configured(**own).dedupe.model_copy(update=thresholds)))} FROM pairs""")
            .fetchall()
        )
        assert turned == [(row["side"] == "above", row["side"] == "below")], "this threshold alone decides"


def test_samples_are_the_nearest_and_say_how_they_look() -> None:
    scores = {0.9: "pool/0", 0.47: "pool/1", 0.43: "pool/2", 0.25: "pool/3"}
    rows = [pair(image, "protected/a", score=score, coverage=0.4) for score, image in scores.items()]
    found = measure(tables_of([*rows, pair("pool/4", "val2/o'hara", "exact")]), configured(), num_samples=1)
    near = [(s["side"], s["image_id"], s["looks"]) for s in found.samples if s["threshold"] == "min_score"]
    looks = "shows 40 % of the protected image"
    assert near == [("above", "pool/1", looks), ("below", "pool/2", looks)]


def test_the_removal_list_applied_to_the_catalog_leaves_what_is_labelled(done: Path, tmp_path: Path) -> None:
    config = load_config(done)
    verb("export", done, "removals", "--format", "csv", "--out", tmp_path / "removals.csv")
    verb("export", done, "removals", "--format", "txt", "--out", tmp_path / "removals.txt")
    with (tmp_path / "removals.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image_id", "role", "protected_id", "method", "score", "verdict"]
    assert [row["image_id"] for row in rows] == (tmp_path / "removals.txt").read_text().splitlines() == COPIES
    assert (rows[2]["method"], rows[2]["protected_id"], rows[2]["score"]) == ("exact", "labeled/disc/0.jpg", "1.0")
    workspace = Workspace(config.workspace)

    def ids(query: str) -> set[str]:
        return {row["image_id"] for row in rows_of(workspace, query)}

    left = ids("SELECT image_id FROM catalog WHERE role = 'pool'") - {row["image_id"] for row in rows}
    rejected = ids("SELECT image_id FROM rejects WHERE stage IN ('find_copies', 'label')")
    assert left == ids("SELECT image_id FROM soft_labels") | rejected and rejected == {"pool/pool-2.tar/torn.jpg"}
    verb("export", done, "duplicates", "--format", "csv", "--out", tmp_path / "duplicates.csv")
    with (tmp_path / "duplicates.csv").open(newline="") as file:
        assert all(len(json.loads(row["homography"])) == 9 for row in csv.DictReader(file))


def test_the_sweep_on_a_workspace_agrees_with_its_duplicates(done: Path) -> None:
    found = json.loads(verb("dedupe-sweep", done, "--json", "--samples", "2"))
    assert found["present"]["removed"] == len(COPIES) and len(found["grid"]) > 50
    text = verb("dedupe-sweep", done)
    assert "removed now: 3 pool images" in text and "0.6*" in text and "min_blocks alone: " in text
    with pytest.raises(UserError, match="no pairs yet"):
        verb("dedupe-sweep", done, "--set", "workspace=elsewhere")
