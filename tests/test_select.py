"""The manifest of every combination of settings equals that of a naive sort, whatever the order of rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import duckdb
import mini
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import CATALOG, SOFT_LABELS
from ssld_pipeline.errors import UserError
from ssld_pipeline.stages import mining
from ssld_pipeline.stages.select import STAGE, figures, select
from ssld_pipeline.verify.laws import laws

NUM_CLASSES = 4
NUM_KEPT = 3
Images = dict[str, list[tuple[int, float]]]
"""image_id -> its kept (class, score), best first."""
Taken = dict[str, tuple[int, float]]


def configured(**settings: Any) -> RunConfig:
    world = {**mini.settings(), "label": {"num_kept": NUM_KEPT}}
    return RunConfig.model_validate({**world, "select": {"top_p": NUM_KEPT, **settings}})


@st.composite
def pools(draw: st.DrawFn) -> Images:
    """Up to 40 images with few different scores, so that ties are everywhere; eighths are exact in float32."""
    images = {}
    for name in draw(st.lists(st.integers(0, 60), max_size=40, unique=True)):
        classes = draw(st.permutations(range(NUM_CLASSES)))[:NUM_KEPT]
        scores = sorted(draw(st.lists(st.integers(0, 8), min_size=NUM_KEPT, max_size=NUM_KEPT)), reverse=True)
        images[f"pool/{name}"] = list(zip(classes, [s / 8 for s in scores], strict=True))
    return images


def tables_of(images: Images, labeled: int = 2, order: int = 0) -> duckdb.DuckDBPyConnection:
    names = sorted(images, key=lambda name: hash((order, name)))
    catalog = [{"image_id": name, "role": "pool", "class_id": None} for name in reversed(names)]
    catalog += [{"image_id": f"labeled/{k}", "role": "labeled", "class_id": 0 if k else None} for k in range(labeled)]
    catalog.append({"image_id": "protected/0", "role": "protected", "class_id": 1})
    place = {"uri": "x", "offset": 0, "size_bytes": 1, "stamp": "s", "part": "p"}
    labels = [
        {
            "image_id": name,
            "view": view,
            "top1_class": images[name][0][0],
            "top1_prob": images[name][0][1],
            "entropy": 0.0,
            "class_ids": [c for c, _ in images[name]],
            "probs": [s for _, s in images[name]],
            "tail_prob": 0.0,
            **dict.fromkeys(("crop_left", "crop_top", "crop_width", "crop_height"), 0.0),
            "flipped": False,
            "part": "p",
        }
        for name in names
        for view in (0, 1)
    ]
    tables = duckdb.connect()
    tables.register("catalog", pa.Table.from_pylist([{**row, **place} for row in catalog], CATALOG.schema()))
    tables.register("soft_labels", pa.Table.from_pylist(labels, SOFT_LABELS.schema()))
    tables.register("left_out", pa.table({"image_id": pa.array([], pa.string())}))
    return tables


def mined(images: Images, config: RunConfig, order: int = 0) -> dict[str, tuple[int, float, int]]:
    rows = select(tables_of(images, order=order), config).to_pylist()
    assert [r["image_id"] for r in rows if r["role"] == "labeled"] == ["labeled/1"]
    found = {r["image_id"]: (r["class_id"], r["score"], r["rank"]) for r in rows if r["role"] == "pool"}
    assert len(found) + 1 == len(rows), "no image twice, and no protected one"
    return found


def naive(images: Images, per_class: int, num_places: int, min_score: float) -> Taken:
    """The lists of all classes, cut; then each image goes where it stands highest."""
    lists: dict[int, list[tuple[float, str]]] = defaultdict(list)
    for name, pairs in images.items():
        for class_id, score in pairs[:num_places]:
            if score >= min_score:
                lists[class_id].append((-score, name))
    places: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    for class_id, listed in lists.items():
        for rank, (score, name) in enumerate(sorted(listed)[:per_class], start=1):
            places[name].append((rank, score, class_id))
    return {name: (min(found)[2], -min(found)[1]) for name, found in places.items()}


def fill_naively(images: Images, taken: Taken, min_per_class: int) -> Taken:
    """All pairs of free images, best first, each taken if its class is short and its image free."""
    taken = dict(taken)
    sizes = Counter(class_id for class_id, _ in taken.values())
    pairs = [(-score, name, c) for name, kept in images.items() if name not in taken for c, score in kept]
    for score, name, class_id in sorted(pairs):
        if name not in taken and sizes[class_id] < min_per_class:
            taken[name] = (class_id, -score)
            sizes[class_id] += 1
    return taken


def ranked(taken: Taken) -> dict[str, tuple[int, float, int]]:
    order = sorted(taken, key=lambda name: (taken[name][0], -taken[name][1], name))
    seen: Counter[int] = Counter()
    found = {}
    for name in order:
        seen[taken[name][0]] += 1
        found[name] = (*taken[name], seen[taken[name][0]])
    return found


FLOORS = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@tried(max_examples=25)
@given(pools(), st.integers(1, 12), st.sampled_from([1, 2, 3]), FLOORS, st.integers(0, 9))
def test_the_best_of_each_class(images: Images, per_class: int, places: int, floor: float, order: int) -> None:
    assignment = {"assignment": "top_p", "top_p": places} if places > 1 else {}
    found = mined(images, configured(per_class=per_class, min_score=floor, **assignment), order)
    assert found == ranked(naive(images, per_class, places, floor))


@tried(max_examples=25)
@given(pools(), st.integers(1, 8), st.sampled_from([1, 3]), FLOORS, st.integers(1, 8), st.integers(0, 9))
def test_short_classes_are_filled(
    images: Images, per_class: int, places: int, floor: float, least: int, order: int
) -> None:
    least = min(least, per_class)
    assignment = "top_p" if places > 1 else "top1"
    config = configured(per_class=per_class, min_score=floor, min_per_class=least, assignment=assignment)
    before = naive(images, per_class, places, floor)
    assert mined(images, config, order) == ranked(fill_naively(images, before, least))


@tried(max_examples=25)
@given(pools(), st.integers(4, 40), st.sampled_from([1, 2, 3]), FLOORS)
def test_the_target_is_met_by_the_largest_per_class(images: Images, total: int, places: int, floor: float) -> None:
    assignment = {"assignment": "top_p", "top_p": places} if places > 1 else {}
    found = mined(images, configured(target_total=total, min_score=floor, **assignment))
    fitting = [naive(images, k, places, floor) for k in range(1, 42)]
    largest = max((taken for taken in fitting if len(taken) <= total), key=len)
    assert found == ranked(largest)


@tried(max_examples=25)
@given(pools(), st.data())
def test_excluded_images_are_as_if_they_were_not_there(
    tmp_path_factory: pytest.TempPathFactory, images: Images, data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.sampled_from(sorted(images)))) if images else set()
    path = tmp_path_factory.mktemp("exclude") / "ids.txt"
    path.write_text("\n".join(gone))
    settings = {"per_class": 3, "min_per_class": 2, "assignment": "top_p"}
    left = {name: kept for name, kept in images.items() if name not in gone}
    assert mined(images, configured(**settings, exclude=str(path))) == mined(left, configured(**settings))


def test_a_labeled_image_can_be_excluded_too(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("labeled/1\n")
    rows = select(tables_of({}, labeled=3), configured(exclude=str(tmp_path / "ids.txt")))
    assert rows["image_id"].to_pylist() == ["labeled/2"]


def test_what_was_filled_is_reported() -> None:
    images: Images = {
        "pool/a": [(0, 0.75), (1, 0.25), (2, 0.0)],
        "pool/b": [(0, 0.5), (1, 0.375), (2, 0.125)],
        "pool/c": [(1, 0.25), (0, 0.125), (2, 0.0)],
    }
    rows = select(tables_of(images), configured(per_class=1, min_score=0.5, min_per_class=1))
    told = figures(rows)
    assert {k: told[k] for k in ("mined", "classes", "filled", "filled_by_class")} == {
        "mined": 3,
        "classes": 3,
        "filled": 2,
        "filled_by_class": {"1": 1, "2": 1},
    }
    assert {r["image_id"] for r in rows.to_pylist() if r["filled"]} == {"pool/b", "pool/c"}


def test_a_target_below_one_image_per_class_is_a_users_mistake() -> None:
    images: Images = {f"pool/{c}": [(c, 0.5), ((c + 1) % 4, 0.25), ((c + 2) % 4, 0.125)] for c in range(4)}
    for assignment in ("top1", "top_p"):
        with pytest.raises(UserError, match=r"select\.target_total: 3 is less"):
            select(tables_of(images), configured(target_total=3, assignment=assignment))


def test_cuts_beyond_what_duckdb_counts() -> None:
    images: Images = {f"pool/{k}": [(k % 4, 0.5), ((k + 1) % 4, 0.25), ((k + 2) % 4, 0.125)] for k in range(9)}
    config = configured(per_class=2_000_000, assignment="top_p")
    assert mined(images, config) == ranked(naive(images, 2_000_000, 3, 0.0))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"min_per_class": 7}, "min_per_class must be at most per_class"),
        ({"assignment": "top_p", "top_p": 5}, r"select\.top_p must be at most label\.num_kept \(2\)"),
        ({"min_per_class": 2, "top_p": 5}, r"label\.num_kept"),
        ({"assignment": "top2"}, "assignment"),
        ({"top_p": 1}, "top_p"),
        ({"target_total": 0}, "target_total"),
    ],
)
def test_settings_that_contradict_each_other(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_config(mini.write_config(tmp_path, select={"per_class": 6, **settings}))


def test_the_paths_of_lists_are_no_setting() -> None:
    assert "exclude" not in STAGE.settings(configured(exclude="a.txt"))
    assert STAGE.side_files(configured(exclude="a.txt")) == {"select.exclude": ("a.txt",)}


# The laws


def broken(tables: duckdb.DuckDBPyConnection, manifest: pa.Table, config: RunConfig) -> set[str]:
    tables.register("manifest", manifest.drop_columns("filled"))
    return {law.name for law in laws(config.select) if law.name.startswith("manifest_") and count(tables, law.broken)}


def count(tables: duckdb.DuckDBPyConnection, query: str) -> int:
    (found,) = tables.execute(f"SELECT count(*) FROM ({query})").fetchall()
    return int(found[0])


@tried(max_examples=20)
@given(pools(), st.booleans(), st.sampled_from(["top1", "top_p"]), FLOORS, st.integers(0, 3))
def test_every_manifest_obeys_the_laws(
    images: Images, by_total: bool, assignment: str, floor: float, least: int
) -> None:
    wanted = {"target_total": 10} if by_total else {"per_class": 3}
    config = configured(**wanted, assignment=assignment, min_score=floor, min_per_class=least)
    tables = tables_of(images)
    assert not broken(tables, select(tables, config), config)


def test_broken_manifests_break_the_laws(tmp_path: Path) -> None:
    images: Images = {f"pool/{k}": [(k % 3, 0.5), ((k + 1) % 3, 0.25), (3, 0.125)] for k in range(12)}
    (tmp_path / "ids.txt").write_text("pool/0\n")
    tables = tables_of(images)
    many = select(tables, configured(per_class=4))
    assert broken(tables, many, configured(per_class=3)) == {"manifest_per_class"}
    assert broken(tables, many, configured(target_total=11)) == {"manifest_per_class"}
    assert not broken(tables, many, configured(target_total=12))
    tables, few = tables_of(images), select(tables_of(images), configured(per_class=3))
    mining.prepare(tables, configured().select)
    assert broken(tables, few, configured(per_class=3, min_per_class=1)) == {"manifest_filled"}
    mining.prepare(tables, configured(exclude=str(tmp_path / "ids.txt")).select)
    assert broken(tables, few, configured(exclude=str(tmp_path / "ids.txt"))) == {"manifest_excluded"}
    assert broken(tables, few.filter(pc.field("rank") != 2), configured(exclude=[])) >= {"manifest_per_class"}
