"""The check of dedupe: figures against a direct count, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn import encoded, picture
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from test_dedupe import build, catalog_rows, config, opened
from test_run import bring, planned, ran

from ssld_pipeline.config.load import load_config
from ssld_pipeline.copies.planted.alterations import KINDS
from ssld_pipeline.copies.planted.canaries import draw
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.intervals import chance_of_at_most, wilson
from ssld_pipeline.queries.status import workspace_status
from ssld_pipeline.stages import check_dedupe, dedupe, find_copies
from ssld_pipeline.stages.check_dedupe import HARD_KINDS
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.store.workspace import Workspace

pytestmark = pytest.mark.slow

NUM_PROTECTED, NUM_CANARIES = 20, 62
BLINDED = {"min_votes": 10_000, "max_hash_distance": 0, "min_thumbnail_correlation": 1.0}


@pytest.fixture(scope="module")
def protected(tmp_path_factory):
    """An index and the catalog rows it was built from, one of them of a file that is no image."""
    images = {f"protected/{i:02}": encoded(picture(i)) for i in range(NUM_PROTECTED)}
    images["protected/broken"] = b"\xff\xd8\xff no photograph"
    place = tmp_path_factory.mktemp("protected")
    index, _, _ = build(place / "one", images)
    return index, catalog_rows(place / "again", images)


def check(protected, folder, rows=None, num_threads=2, **settings):
    index, all_rows = protected
    folder.mkdir()
    setup = Setup(config(**{"canaries": NUM_CANARIES, **settings}), (), {"index_protected": index}, num_threads)
    return check_dedupe.STAGE.build(setup, all_rows if rows is None else rows, folder)


def test_a_dedupe_that_sees_passes_and_its_recall_is_what_a_count_gives(protected, tmp_path):
    figures, rejects = check(protected, tmp_path / "check")
    rows = pq.read_table(tmp_path / "check/canaries.parquet").to_pylist()
    assert not rejects and len(rows) == figures["num_planted"] == NUM_CANARIES
    required = [r for r in rows if r["kind"] not in HARD_KINDS]
    assert figures["recall"] == sum(r["is_found"] for r in required) / len(required) > 0.95
    assert figures["num_found"] == sum(r["is_found"] for r in rows)
    assert figures["num_right"] == sum(r["is_right"] and r["matched_id"] == r["protected_id"] for r in rows)
    assert [k["kind"] for k in figures["kinds"]] == list(KINDS)
    for kind in figures["kinds"]:
        own = [r for r in rows if r["kind"] == kind["kind"]]
        assert (kind["planted"], kind["found"]) == (len(own), sum(r["is_found"] for r in own))
        assert (kind["low"], kind["high"]) == wilson(kind["recall"], len({r["protected_id"] for r in own}))
    missed = {p.name for p in (tmp_path / "check/missed").iterdir()}
    assert missed == {f"{r['number']:05}-{r['kind']}.jpg" for r in rows if not r["is_found"]}


def test_a_canary_is_judged_as_the_pool_is(protected, tmp_path):
    """The missed pictures, given to find_copies and dedupe as a pool, are missed there; thresholds make some."""
    settings = {"min_score": 1.0, "min_explained": 1.0, "min_perceptual_score": 1.0, "min_canary_recall": 0}
    check(protected, tmp_path / "check", **settings)
    missed = {f"pool/{p.name}": p.read_bytes() for p in (tmp_path / "check/missed").iterdir()}
    evidence = {r["number"]: r for r in pq.read_table(tmp_path / "check/canaries.parquet").to_pylist()}
    rows = opened(protected[0], **settings)(catalog_rows(tmp_path / "pool", missed)).rows.to_pylist()
    assert missed and not any(r["is_duplicate"] for r in rows)
    own = {(int(r["image_id"].split("/")[1][:5]), r["protected_id"], r["score"]) for r in rows}
    assert {(n, e["matched_id"], e["score"]) for n, e in evidence.items() if not e["is_found"] and e["score"]} <= own


def test_neither_order_nor_threads_nor_other_rows_change_a_verdict(protected, tmp_path):
    rows = protected[1].take(np.random.default_rng(0).permutation(protected[1].num_rows))
    one = check(protected, tmp_path / "one", num_threads=1)
    assert check(protected, tmp_path / "other", rows, num_threads=3) == one
    assert (tmp_path / "one/canaries.parquet").read_bytes() == (tmp_path / "other/canaries.parquet").read_bytes()


def test_a_blinded_dedupe_is_refused_and_the_kinds_are_named(protected, tmp_path):
    with pytest.raises(UserError, match=r"misses too many.*crop \(0 of 2\).*and \d+ more kinds.*min_canary_recall"):
        check(protected, tmp_path / "check", **BLINDED)
    figures = json.loads((tmp_path / "check/metrics.json").read_text())
    assert len(list((tmp_path / "check/missed").iterdir())) == NUM_CANARIES - figures["num_found"] > NUM_CANARIES / 3
    assert check(protected, tmp_path / "unasked", **BLINDED, min_canary_recall=0)[0]["recall"] == figures["recall"]


@pytest.mark.slow
def test_one_kind_that_is_never_found_is_refused_though_the_whole_is_not(protected, tmp_path, monkeypatch):
    from ssld_pipeline.copies.planted import alterations

    elsewhere = {**alterations._ALTERATIONS, "mirror": lambda image, rng: picture(999)}
    monkeypatch.setattr(alterations, "_ALTERATIONS", elsewhere)
    with pytest.raises(UserError, match=r"planted to test it: mirror \(0 of 4\)\. Its recall is 0\.9"):
        check(protected, tmp_path / "check", canaries=31 * 4)


def test_nothing_protected_has_nothing_to_miss(tmp_path):
    empty, _, _ = build(tmp_path / "empty", {})
    rows = catalog_rows(tmp_path / "rows", {})
    figures, _ = check((empty, rows), tmp_path / "check")
    assert figures["num_planted"] == 0 and figures["recall"] is None and figures["kinds"] == []


def test_images_that_went_away_are_rejected_and_all_of_them_is_an_error(protected, tmp_path):
    index, rows = protected
    gone = rows.to_pylist()
    gone[0]["uri"] = str(tmp_path / "gone.jpg")
    moved = rows.from_pylist(gone, rows.schema)
    figures, rejects = check((index, moved), tmp_path / "check")
    assert [(r.image_id, r.reason) for r in rejects] == [("protected/00", "unreadable")]
    assert 0 < figures["num_planted"] < NUM_CANARIES
    away = rows.from_pylist([{**r, "uri": "/nowhere/gone.jpg"} for r in gone], rows.schema)
    with pytest.raises(UserError, match="none of 20 protected images can be read"):
        check((index, away), tmp_path / "away")


@given(st.integers(1, 40), st.integers(0, 150))
def test_canaries_are_drawn_evenly_and_not_by_order(num_images, count):
    images = [f"protected/{i}" for i in range(num_images)]
    drawn = draw(images, count)
    assert drawn == draw(images[::-1], count) and [c.number for c in drawn] == list(range(count))
    for chosen, of in ((Counter(c.protected_id for c in drawn), images), (Counter(c.kind for c in drawn), KINDS)):
        assert max(chosen.values(), default=0) - min(chosen[name] for name in of) <= 1


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0, 1))
def test_chance_is_the_binomial_distribution(found, num, share):
    assert math.isclose(chance_of_at_most(min(found, num), num, share), binom.cdf(found, num, share), abs_tol=1e-9)


def test_few_images_show_little_and_many_show_more():
    def refused(found, planted, num_images):
        verdicts = [
            {"kind": KINDS[i % 19], "protected_id": i % num_images, "is_found": i < found, "is_right": True}
            for i in range(planted)
        ]
        try:
            check_dedupe._refuse_blindness(check_dedupe.measure(verdicts), verdicts, config())
        except UserError:
            return True
        return False

    assert not refused(180, 200, 6) and refused(180, 200, 200)
    assert not refused(0, 1, 1) and refused(0, 100, 6) and not refused(200, 200, 200)


def test_a_setting_reruns_the_check_alone_where_it_changes_no_evidence():
    def changed(**settings):
        stages = (check_dedupe.STAGE, find_copies.STAGE, dedupe.STAGE)
        return [s.name for s in stages if s.settings(config()) != s.settings(config(**settings))]

    assert changed(canaries=10, min_canary_recall=0.5) == ["check_dedupe"]
    assert changed(min_score=0.9) == ["check_dedupe", "dedupe"]
    assert changed(num_probes=8) == ["check_dedupe", "find_copies"]
    assert changed(max_reject_share=0.5) == []


def blinded(world: Path, *more: str):
    return load_config(world, (*(f"dedupe.{k}={v}" for k, v in BLINDED.items()), "dedupe.canaries=62", *more))


@pytest.mark.slow
def test_a_run_stops_before_the_pool_is_read(world: Path) -> None:
    with pytest.raises(UserError, match=r"check_dedupe: dedupe misses too many.*under .*artifacts/check_dedupe"):
        bring(blinded(world))
    workspace = Workspace(load_config(world).workspace)
    assert workspace.tables["pairs"].version() is None and workspace.artifact("check_dedupe").record() is None
    missed = list(Path(workspace.uri).glob("artifacts/check_dedupe/*/missed/*.jpg"))
    assert len(missed) > 20, "what was missed is there to look at"


@pytest.mark.slow
def test_the_check_of_a_tiny_world_comes_before_what_it_guards(world: Path) -> None:
    config = load_config(world)
    reports = ran(bring(config, until="dedupe"))
    assert list(reports) == ["catalog", "index_protected", "check_dedupe", "guard_training", "find_copies", "dedupe"]
    found = workspace_status(Workspace(config.workspace), config)
    assert {row["kind"] for row in found["canaries"]} == set(KINDS)
    assert sum(row["planted"] for row in found["canaries"]) == 31 == found["artifacts"]["check_dedupe"]["num_planted"]
    strict = load_config(world, ("dedupe.min_score=0.57",))
    assert not planned(strict)["find_copies"].changes
    assert list(ran(bring(strict, only=("dedupe",)))) == ["check_dedupe", "dedupe"]
    with pytest.raises(UserError, match="check_dedupe: dedupe misses too many"):
        bring(load_config(world, ("dedupe.min_inliers=999", "dedupe.min_perceptual_score=1")), only=("dedupe",))
    off = load_config(world, ("dedupe.canaries=0",))
    assert not planned(off)["check_dedupe"].enabled and list(ran(bring(off, only=("dedupe",)))) == ["dedupe"]
