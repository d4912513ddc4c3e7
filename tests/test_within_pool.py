"""Near-identical images of the pool: one of each group is kept, and what resembles a leak goes with it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import duckdb
import mini
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_run import assert_lawful, bring, planned, ran
from test_verdicts import POOL, PROTECTED, broken_laws, configured, pair, tables_of, written

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import DUPLICATES, REPEATS
from ssld_pipeline.copies.within_pool.near_identical import Frames, _agreeing, near_identical
from ssld_pipeline.pipeline import stages
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.report import figures
from ssld_pipeline.report.waterfall import waterfall
from ssld_pipeline.report.write import stage_rows
from ssld_pipeline.runner.shapes.table import shape_of
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.survey import FileDigests, survey
from ssld_pipeline.stages import dedupe, group_pool, look
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.store.workspace import Workspace

Rows = list[dict[str, Any]]
tried = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


def brighter(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels.astype(int) + 20, 0, 255).astype(np.uint8)


def pool_members() -> dict[str, bytes]:
    """Three groups, equal bytes in one of them; a protected image as it is and recompressed; an image that is torn."""
    a, b, c = (mini.draw(k, 7000 + k, size=128) for k in range(3))
    protected = mini.draw(0, 503)
    return {
        "a-best.jpg": mini.jpeg(a, 95),
        "a-small.jpg": mini.jpeg(shrunk(a, 72)),
        "a-poor.jpg": mini.jpeg(a, 50),
        "a-bright.jpg": mini.jpeg(brighter(a), 80),
        "b-1.jpg": mini.jpeg(b),
        "b-2.jpg": mini.jpeg(b),
        "b-small.jpg": mini.jpeg(shrunk(b, 96)),
        "c-best.jpg": mini.jpeg(c),
        "c-trimmed.jpg": mini.jpeg(c[1:]),
        "leak.jpg": mini.jpeg(protected),
        "leak-again.jpg": mini.jpeg(protected, 75),
        "torn.jpg": mini.jpeg(c)[:900],
    }


# Whole runs


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file; everything up to label has run, without a look at repeats."""
    folder = tmp_path_factory.mktemp("within_pool") / "runs"
    path = mini.write_world(folder, dedupe={"canaries": 0}, finetune=None, baseline=None)
    mini.write_tar(folder / "inputs/pool/pool-2.tar", pool_members())
    bring(load_config(path), until="label")
    return path


ON = "dedupe.within_pool=true"
EXPECTED = {
    "a-bright.jpg": ("repeat", "a-best.jpg", "perceptual"),
    "a-poor.jpg": ("repeat", "a-best.jpg", "perceptual"),
    "a-small.jpg": ("repeat", "a-best.jpg", "perceptual"),
    "b-2.jpg": ("repeat", "b-1.jpg", "exact"),
    "b-small.jpg": ("repeat", "b-1.jpg", "perceptual"),
    "c-trimmed.jpg": ("repeat", "c-best.jpg", "perceptual"),
}


def verdicts(config: RunConfig) -> dict[str, tuple[str, str, str]]:
    """image -> (verdict, protected_id, method) of what is no plain copy, names without input and shard."""
    query = "SELECT * FROM duplicates WHERE verdict NOT IN ('copy', 'no_copy') ORDER BY image_id"
    return {
        r["image_id"].rsplit("/", 1)[1]: (r["verdict"], (r["protected_id"] or "").rsplit("/", 1)[-1], r["method"])
        for r in rows_of(Workspace(config.workspace), query)
    }


@pytest.mark.slow
def test_one_of_each_group_is_kept_and_off_is_as_if_it_were_not(done: Path) -> None:
    off, on = load_config(done), load_config(done, (ON,))
    foreseen = planned(on)
    assert foreseen["look"].changes and foreseen["group_pool"].changes and not foreseen["find_copies"].changes
    reports = bring(on, until="label")
    assert ran(reports).keys() == {"look", "group_pool", "dedupe", "label"}
    assert reports["look"].num_rejects == 1
    assert reports["group_pool"].figures == {"groups": 4, "repeats": 7, "of_equal_bytes": 1, "largest_group": 4}
    assert verdicts(on) == EXPECTED
    assert_lawful(on)
    shown = [row["stage"] for row in stage_rows(Workspace(on.workspace), on)]
    names = [stage.name for stage in stages(on)]
    assert shown == [name for name in names if name in shown] and {"look", "group_pool", "label"} <= set(shown)
    labelled = {r["image_id"] for r in rows_of(Workspace(on.workspace), "SELECT image_id FROM soft_labels")}
    assert "pool/pool-2.tar/a-best.jpg" in labelled and "pool/pool-2.tar/a-small.jpg" not in labelled
    with Workspace(on.workspace).connect() as tables:
        steps = {step.name: step.num for step in waterfall(figures.counts(tables))}
    assert steps["repeats within the pool"] == -6 and "not labelled yet" not in steps
    assert not planned(on)["group_pool"].changes
    assert ran(bring(off, until="label")).keys() == {"dedupe", "label"}
    assert verdicts(off) == {}
    assert_lawful(off)


def test_what_stands_without_it_has_the_fingerprint_it_had(done: Path) -> None:
    off = load_config(done)
    state = State(survey(off), Workspace(off.workspace), FileDigests(off.workspace))
    (unit,) = shape_of(dedupe.STAGE).units(dedupe.STAGE, state)
    assert unit.inputs.keys() == {"catalog", "pairs"}
    assert "within_pool" not in unit.settings["config"]
    assert not planned(off)["look"].enabled and not planned(off)["group_pool"].enabled


def test_lists_choose_another_of_the_group_and_nothing_is_compared_again(done: Path) -> None:
    on = load_config(done, (ON,))
    bring(on, until="dedupe")
    (done.parent / "drop.txt").write_text("pool/pool-2.tar/a-best.jpg\n")
    (done.parent / "keep.txt").write_text("pool/pool-2.tar/b-small.jpg\n")
    listed = load_config(done, (ON, "dedupe.deny=drop.txt", "dedupe.allow=keep.txt"))
    assert ran(bring(listed, until="label")).keys() == {"dedupe", "label"}
    best = min(("a-poor.jpg", "a-bright.jpg"), key=lambda name: -len(pool_members()[name]))
    others = {"a-poor.jpg", "a-bright.jpg", "a-small.jpg"} - {best}
    found = verdicts(listed)
    assert found.pop("a-best.jpg")[0] == "denied"
    assert found == {
        **dict.fromkeys(others, ("repeat", best, "perceptual")),
        "b-1.jpg": ("repeat", "b-small.jpg", "perceptual"),
        "b-2.jpg": ("repeat", "b-small.jpg", "perceptual"),
        "c-trimmed.jpg": EXPECTED["c-trimmed.jpg"],
    }
    assert_lawful(listed)


def test_what_is_near_identical_to_a_leak_goes_though_no_copy_itself(done: Path) -> None:
    blind = load_config(done, (ON, "dedupe.min_inliers=1000", "dedupe.min_perceptual_score=1.0"))
    bring(blind, until="label")
    assert verdicts(blind)["leak-again.jpg"][:2] == ("copy_of_copy", "3.jpg")
    assert_lawful(blind)


def test_a_new_tar_is_looked_at_alone(done: Path, tmp_path: Path) -> None:
    on = load_config(done, (ON,))
    bring(on, until="dedupe")
    tar = done.parent / "inputs/pool/pool-3.tar"
    mini.write_tar(tar, {"c-larger.jpg": mini.jpeg(cv2.resize(mini.draw(2, 7002, size=128), (200, 200)))})
    assert {k: n for k, n in ran(bring(on, until="dedupe")).items() if k != "find_copies"} == {
        "catalog": 1,
        "look": 1,
        "group_pool": 1,
        "dedupe": 1,
    }
    found = verdicts(on)
    assert found["c-best.jpg"][1] == found["c-trimmed.jpg"][1] == "c-larger.jpg"
    tar.unlink()
    bring(on, until="dedupe")
    assert verdicts(on) == EXPECTED


# Evidence


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("files")
    rows = []
    for number, (name, data) in enumerate(sorted(pool_members().items())):
        (folder / f"{number}.jpg").write_bytes(data)
        row = {"image_id": f"pool/{name}", "role": "pool", "uri": str(folder / f"{number}.jpg"), "offset": 0}
        rows.append({**row, "size_bytes": len(data)})
    return pa.Table.from_pylist(rows)


def grouped(catalog: pa.Table, looks: pa.Table, config: RunConfig) -> Rows:
    connection = duckdb.connect()
    connection.register("catalog", catalog)
    connection.register("looks", looks)
    schema = REPEATS.schema()
    rows = group_pool.group(connection, config).select([n for n in schema.names if n != "part"])
    found: Rows = rows.sort_by([("image_id", "ascending"), ("other_id", "ascending")]).to_pylist()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("num_threads", [1, 3])
def test_order_parts_and_threads_change_nothing(
    pool: pa.Table, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(within_pool=True)
    open_look = look.STAGE.open(Setup(config, (), {}, num_threads))
    expected = grouped(pool, open_look(pool).rows, config)
    assert len([r for r in expected if r["rank"]]) == 7
    monkeypatch.setattr("os.cpu_count", lambda: num_threads)
    mixed = pool.take(np.random.default_rng(num_threads).permutation(len(pool)))
    looks = pa.concat_tables([open_look(mixed.slice(i, 4)).rows for i in range(0, len(mixed), 4)])
    assert grouped(mixed, looks, config) == expected


def test_an_image_that_is_gone_by_then_is_left_alone(pool: pa.Table, tmp_path: Path) -> None:
    config = configured(within_pool=True)
    looks = look.STAGE.open(Setup(config, (), {}))(pool).rows
    uris = [
        str(tmp_path) if "a-best" in name else uri
        for name, uri in zip(*(pool[c].to_pylist() for c in ("image_id", "uri")), strict=True)
    ]
    found = grouped(pool.set_column(2, "uri", pa.array(uris)), looks, config)
    assert found and not any("a-best" in (r["image_id"] + r["other_id"]) for r in found)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_pool_of_hardly_any_images_has_no_groups(pool: pa.Table, count: int) -> None:
    config, few = configured(within_pool=True), pool.filter(pc.match_substring(pool["image_id"], "-best"))[:count]
    assert grouped(few, look.STAGE.open(Setup(config, (), {}))(few).rows, config) == []


@pytest.mark.slow
def test_a_large_group_is_one_group_though_each_image_proposed_two_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 versions of a picture, each proposed with the next alone, and another picture."""
    rng, base = np.random.default_rng(0), mini.draw(1, 5, size=128)[..., 0]
    frames = [np.clip(base + rng.normal(0, 2, base.shape), 0, 255).astype(np.uint8) for _ in range(40)]
    pixels = np.stack([*frames, mini.draw(2, 6, size=128)[..., 0]])
    count = len(pixels)
    proposed = np.stack((np.arange(count - 1), np.arange(1, count)), axis=1)
    sizes = np.full((count, 2), 128)
    np.save(tmp_path / "frames.npy", pixels)
    all_frames = Frames(np.arange(count), np.ones(count, np.bool_), tmp_path / "frames.npy", sizes)
    confirmed, centres = near_identical(all_frames, proposed, count, 0.9, 2)
    assert centres.tolist() == [0] * 40 + [40]
    assert {(0, i) for i in range(1, 40)} <= {tuple(p) for p in confirmed.pairs}
    assert len(confirmed.pairs) < 8 * count
    monkeypatch.setattr("ssld_pipeline.copies.within_pool.near_identical._FEW_CHUNKS", 0)
    monkeypatch.setattr("ssld_pipeline.copies.within_pool.near_identical._PAIRS_AT_ONCE", 7)
    again, same_centres = near_identical(all_frames, proposed, count, 0.9, 2)
    assert all(np.array_equal(one, other) for one, other in zip(again, confirmed, strict=True))
    assert np.array_equal(same_centres, centres)
    monkeypatch.setattr("ssld_pipeline.copies.within_pool.near_identical._agreeing", dies_in_a_process_of_its_own)
    again, _ = near_identical(all_frames, proposed, count, 0.9, 2)
    assert all(np.array_equal(one, other) for one, other in zip(again, confirmed, strict=True))


agreeing = _agreeing


def dies_in_a_process_of_its_own(*chunk: Any) -> Any:
    """As one that is killed for want of memory."""
    if multiprocessing.parent_process() is not None:
        os._exit(9)
    return agreeing(*chunk)


def test_processes_that_compare_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from ssld_pipeline.copies.within_pool.near_identical import _end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    pool.submit(len, ()).result()
    print(*(p.pid for p in pool._processes.values()), flush=True)
    time.sleep(60)
"""
    (tmp_path / "driver.py").write_text(script)
    driver = subprocess.Popen([sys.executable, tmp_path / "driver.py"], stdout=subprocess.PIPE, text=True)
    assert driver.stdout
    child = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    until = time.monotonic() + 30
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_running(child)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


# The decision


def repeat_row(image_id: str, other_id: str, rank: int | None, method: str = "perceptual") -> dict[str, Any]:
    evidence = {"score": 0.95, "num_blocks": 40, "coverage": 1.0, "homography": [1.0, 0, 0, 0, 1, 0, 0, 0, 1]}
    return {"image_id": image_id, "other_id": other_id, "method": method, **evidence, "rank": rank, "part": "p"}


@st.composite
def groups(draw: st.DrawFn) -> Rows:
    """Stars over POOL: each image is a centre, or joins one before it; some pairs across groups besides."""
    centres: list[int] = []
    for i in range(len(POOL)):
        centres.append(draw(st.sampled_from([i, *(k for k in range(i) if centres[k] == k)])))
    ranks = [sum(c == centres[i] for c in centres[:i]) for i in range(len(POOL))]
    rows = [repeat_row(POOL[i], POOL[c], ranks[i]) for i, c in enumerate(centres) if c != i]
    across = st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda e: e[0] > e[1] and centres[e[0]] != e[1])
    return rows + [repeat_row(POOL[i], POOL[k], None) for i, k in draw(st.lists(across, unique=True, max_size=3))]


COPIES = st.lists(st.tuples(st.sampled_from(POOL), st.sampled_from(PROTECTED)), unique=True, max_size=3)
LISTS = st.lists(st.sampled_from([None, None, None, "allow", "deny"]), min_size=len(POOL), max_size=len(POOL))


def decided(pairs: Rows, repeats: Rows, config: RunConfig) -> Rows:
    tables = tables_of(pairs)
    tables.register("repeats", pa.Table.from_pylist(repeats, schema=REPEATS.schema()))
    schema = DUPLICATES.row_schema()
    rows = dedupe.decide(tables, config).select(schema.names)
    found: Rows = rows.cast(schema).sort_by([("image_id", "ascending"), ("protected_id", "ascending")]).to_pylist()
    return found


@tried
@given(groups(), COPIES, LISTS, st.sampled_from([0.9, 0.3]), st.randoms(use_true_random=False))
def test_every_group_keeps_one_unless_a_leak_is_near(
    tmp_path: Path, repeats: Rows, copies: list[tuple[str, str]], lists: list[str | None], score: float, random: Any
) -> None:
    """``score`` .3: the pairs are candidates and no copies."""
    config = configured(**written(tmp_path, lists), within_pool=True)
    pairs = [pair(*key, score=score) for key in copies]
    rows = decided(pairs, repeats, config)
    on = dict(zip(POOL, lists, strict=True))
    leaks = {image for image, _ in copies if score == 0.9 and on[image] != "allow"}
    centre = {r["image_id"]: r["other_id"] for r in repeats if r["rank"]}
    group_of = {image: centre.get(image, image) for image in POOL}
    near = {(r["image_id"], r["other_id"]) for r in repeats}
    suspect = {
        image
        for image in POOL
        for leak in leaks
        if group_of[image] == group_of[leak] or (image, leak) in near or (leak, image) in near
    }
    removed = {r["image_id"] for r in rows if r["is_duplicate"]}
    assert {i for i in suspect if on[i] != "allow"} <= removed
    assert {r["image_id"] for r in rows if r["verdict"] == "copy_of_copy"} == {
        i for i in suspect - leaks if on[i] is None
    }
    for own in set(group_of.values()):
        members = [
            i for i in POOL if group_of[i] == own and not (i in suspect and on[i] != "allow") and on[i] != "deny"
        ]
        kept = [i for i in members if i not in removed]
        assert bool(kept) == bool(members)
        assert set(kept) == {i for i in members if on[i] == "allow"} or len(kept) == 1
    assert all(r["protected_id"] not in removed for r in rows if r["verdict"] == "repeat")
    assert len({(r["image_id"], r["protected_id"]) for r in rows}) == len(rows)
    assert not broken_laws(rows, config)
    assert decided(random.sample(pairs, len(pairs)), random.sample(repeats, len(repeats)), config) == rows


def test_a_copy_of_a_copy_names_the_protected_image_and_keeps_its_own_evidence(tmp_path: Path) -> None:
    """Image 1 is near-identical to 0, a copy; image 2 has the bytes of 1; image 1 was compared in vain itself."""
    pairs = [pair(POOL[0], "protected/a"), pair(POOL[1], "protected/a", score=0.2)]
    repeats = [
        repeat_row(POOL[1], POOL[0], 1),
        repeat_row(POOL[2], POOL[1], None, "exact"),
        repeat_row(POOL[2], POOL[0], 2),
    ]
    rows = {r["image_id"]: r for r in decided(pairs, repeats, configured(within_pool=True))}
    assert {i: (r["verdict"], r["protected_id"]) for i, r in rows.items()} == {
        POOL[0]: ("copy", "protected/a"),
        POOL[1]: ("copy_of_copy", "protected/a"),
        POOL[2]: ("copy_of_copy", "protected/a"),
    }
    assert rows[POOL[1]]["score"] == pytest.approx(0.2) and rows[POOL[1]]["homography"] is not None
    assert rows[POOL[2]]["score"] == pytest.approx(0.95) and rows[POOL[2]]["homography"] is None
    reported = configured(within_pool=True, report_only=("protected",))
    assert {r["verdict"] for r in decided(pairs, repeats, reported)} == {"reported", "no_copy", "repeat"}


def test_a_repeat_of_what_is_removed_breaks_a_law() -> None:
    config = configured(within_pool=True)
    rows = decided([], [repeat_row(POOL[1], POOL[0], 1)], config)
    assert not broken_laws(rows, config)
    assert broken_laws([{**row, "protected_id": row["image_id"]} for row in rows], config) == {"duplicates_repeat"}
    assert broken_laws([{**row, "protected_id": "pool/gone"} for row in rows], config) == {"duplicates_of"}
