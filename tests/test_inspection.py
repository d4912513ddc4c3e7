"""`ssld inspect`: what it says of a small workspace is what plain Python says of its rows, here and at a distance."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import mini
import numpy as np
import pyarrow as pa
import pytest
from test_cli import verb

from ssld_pipeline.config.load import load_config
from ssld_pipeline.contracts import CATALOG, MANIFEST, SOFT_LABELS
from ssld_pipeline.errors import UserError
from ssld_pipeline.queries import inspection
from ssld_pipeline.queries.class_list import ClassList, class_list
from ssld_pipeline.store import files
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.fingerprints import Fingerprint, digest
from ssld_pipeline.store.workspace import Workspace

CLASSES = ClassList(mini.CLASSES)
SETTINGS = {"config": {"model": "m", "image_size": 32, "num_kept": 2}, "classes": digest(mini.CLASSES), "version": 1}
FILLED = {"string": "", "int32": 0, "int64": 0, "float32": 1.0, "bool": False}


def add(workspace: Workspace, name: str, part: str, rows: list[dict[str, Any]]) -> None:
    """``rows`` as a part; what they lack is filled in."""
    contract = {t.name: t for t in (CATALOG, SOFT_LABELS, MANIFEST)}[name]
    empty = {c.name: None if c.nullable else FILLED.get(c.type, []) for c in contract.columns if c.name != "part"}
    table = pa.Table.from_pylist([{**empty, **row} for row in rows], contract.row_schema())
    fingerprint = Fingerprint.of(SETTINGS, {"part": part})
    store = workspace.tables[name]
    store.commit([store.write(table, {"part": part}, fingerprint, SETTINGS, {})])


def labels(num_parts: int = 3, num_rows: int = 60) -> dict[str, list[dict[str, Any]]]:
    """By part; probabilities are rounded so that many are equal. A further view says something else."""
    random, parts = np.random.default_rng(0), {}
    for number in range(num_parts):
        rows = []
        for k in range(num_rows):
            prob, top = round(float(random.uniform(0.4, 0.6)), 2), int(random.integers(0, 2))
            image_id = f"pool/p-{number}.tar/{k:03d}.jpg"
            other = (top + 1) % 3
            for view, first, second in ((0, top, other), (1, other, top)):
                rows.append(
                    {
                        "image_id": image_id,
                        "view": view,
                        "top1_class": first,
                        "top1_prob": prob,
                        "entropy": float(random.uniform(0, 1.5)),
                        "class_ids": [first, second],
                        "probs": [prob, 0.3],
                        "tail_prob": 0.7 - prob,
                    }
                )
        parts[f"pool/p-{number}.tar#0"] = rows
    return parts


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(str(tmp_path / "workspace"))
    for part, rows in labels().items():
        add(made, "soft_labels", part, rows)
        add(made, "catalog", part, [{"image_id": r["image_id"], "role": "pool"} for r in rows if r["view"] == 0])
    return made


def first_views() -> list[dict[str, Any]]:
    return [row for rows in labels().values() for row in rows if row["view"] == 0]


@pytest.fixture(params=["local", "remote"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remote: DuckDB is given Arrow datasets on an fsspec filesystem instead of paths."""
    if request.param == "remote":
        monkeypatch.setattr(files, "is_local", lambda uri: False)


def test_distributions_count_view_0_alone(workspace: Workspace, anywhere: None) -> None:
    found = inspection.distributions(workspace, CLASSES)
    counts = Counter(row["top1_class"] for row in first_views())
    assert {r["class_id"]: r["images"] for r in found["classes"]} == {**counts, 2: 0}
    assert [r["images"] for r in found["classes"]] == [*sorted(counts.values(), reverse=True), 0]
    for bin in found["entropy"]:
        inside = [r for r in first_views() if bin["low"] <= np.float32(r["entropy"]) < bin["high"]]
        assert abs(bin["images"] - len(inside)) <= 1, "but for one on the very edge"
    assert sum(bin["images"] for bin in found["entropy"]) == len(first_views())


def test_an_entropy_that_is_no_number_is_passed_over(tmp_path: Path) -> None:
    made = Workspace(str(tmp_path))
    rows = [{"image_id": f"pool/a/{k}", "entropy": e, "class_ids": [0]} for k, e in enumerate((math.nan, 0.1, -1e-9))]
    add(made, "soft_labels", "pool/a#0", rows)
    found = inspection.distributions(made, ClassList())
    assert sum(b["images"] for b in found["entropy"]) == 2 and found["classes"][0]["images"] == 3


def expected_places(class_id: int, cut: float | None) -> dict[str, str]:
    """By sorting all rows; equally probable ones in the order of parts, then of image_ids."""
    own = [r for r in first_views() if r["top1_class"] == class_id]
    part = {r["image_id"]: r["image_id"].rsplit("/", 1)[0] for r in own}
    best = sorted(own, key=lambda r: (-r["top1_prob"], part[r["image_id"]], r["image_id"]))
    up = sorted(own, key=lambda r: r["image_id"])
    worst = sorted(sorted(up, key=lambda r: part[r["image_id"]], reverse=True), key=lambda r: r["top1_prob"])
    looks = [("best", best[:10]), ("worst", worst[:10])]
    if cut is not None:
        taken = [r for r in worst if np.float32(r["top1_prob"]) >= np.float32(cut)][:5]
        left = [r for r in best if np.float32(r["top1_prob"]) < np.float32(cut)][:5]
        looks[1:1] = [("border", taken), ("border", left)]
    places: dict[str, str] = {}
    for place, rows in looks:
        for row in rows:
            places.setdefault(row["image_id"], place)
    return places


def test_class_shows_best_border_and_worst(workspace: Workspace, anywhere: None) -> None:
    mined = [r for r in first_views() if r["top1_class"] == 1 and r["top1_prob"] >= 0.5]
    columns = [{"image_id": r["image_id"], "role": "pool", "class_id": 1, "score": r["top1_prob"]} for r in mined]
    add(workspace, "manifest", "select", columns)
    found = inspection.rows_of_class(workspace, "soft_labels", 1, CLASSES)
    assert {r["image_id"]: r["place"] for r in found} == expected_places(1, min(r["top1_prob"] for r in mined))
    assert [r["top1_prob"] for r in found] == sorted((r["top1_prob"] for r in found), reverse=True)
    assert {r["image_id"] for r in found if r["mined"] == "square"} == {
        r["image_id"] for r in found if np.float32(r["top1_prob"]) >= np.float32(0.5)
    }
    assert all(r["says"].startswith("square 0.") for r in found)


def test_class_without_a_selection_has_no_border_and_an_empty_class_no_rows(workspace: Workspace) -> None:
    found = inspection.rows_of_class(workspace, "soft_labels", 0, CLASSES)
    assert {r["image_id"]: r["place"] for r in found} == expected_places(0, None)
    assert inspection.rows_of_class(workspace, "soft_labels", 2, CLASSES) == []


def test_image_shows_each_views_labels_by_name(workspace: Workspace, anywhere: None) -> None:
    found = inspection.rows_of_image(workspace, "pool/p-1.tar/007.jpg")
    assert [r["view"] for r in found["soft_labels"]] == [0, 1] and len(found["catalog"]) == 1
    said = inspection.labels_of(found["soft_labels"], CLASSES)
    top = found["soft_labels"][0]["top1_class"]
    assert [s["class"] for s in said if s["view"] == 0] == [CLASSES.name(top), CLASSES.name((top + 1) % 3), None]
    assert sum(s["prob"] for s in said if s["view"] == 1) == pytest.approx(1.0)


@pytest.mark.parametrize("part", ["pool/.#0", "pool/list.txt#1#0", "pool/a#0"])
def test_an_image_is_found_whatever_its_part_is_called(tmp_path: Path, part: str) -> None:
    made = Workspace(str(tmp_path))
    add(made, "catalog", part, [{"image_id": "pool/a/b/1.jpg", "role": "pool"}])
    add(made, "catalog", "pool/zzz#0", [{"image_id": "pool/zzz/1.jpg", "role": "pool"}])
    add(made, "catalog", "labeled/a#0", [{"image_id": "labeled/a/b/1.jpg", "role": "labeled"}])
    assert inspection.rows_of_image(made, "pool/a/b/1.jpg")["catalog"][0]["part"] == part
    with pytest.raises(UserError, match="no table"):
        inspection.rows_of_image(made, "pool/a/b/2.jpg")


def test_a_quote_in_a_name_is_a_name(tmp_path: Path) -> None:
    made = Workspace(str(tmp_path))
    add(made, "catalog", "pool/o'brien.tar#0", [{"image_id": "pool/o'brien.tar/1.jpg", "role": "pool"}])
    assert inspection.rows_of_image(made, "pool/o'brien.tar/1.jpg")["catalog"]


def test_class_names_are_those_that_the_labels_were_made_with(tmp_path: Path) -> None:
    config = load_config(mini.write_world(tmp_path))
    workspace = Workspace(config.workspace)
    assert class_list(config, workspace).names == mini.CLASSES
    add(workspace, "soft_labels", "pool/a#0", [])
    assert class_list(config, workspace).names == mini.CLASSES
    (tmp_path / "inputs/train/another").mkdir()
    changed = class_list(config, workspace)
    assert changed.names == () and "another one now" in changed.note and changed.name(1) == "1"
    ClassLists(workspace.uri).accept(mini.CLASSES)  # as a run that labels does
    assert class_list(config, workspace).names == mini.CLASSES


def test_a_class_is_given_by_name_or_number() -> None:
    names = ClassList(("2", "cat", "dog"))
    assert [names.number(given) for given in ("cat", "2", "1", "0")] == [1, 0, 1, 0]
    for given, hint in (("cot", "cat"), ("3", "there are 3"), ("-1", "by number")):
        with pytest.raises(UserError, match=hint):
            names.number(given)
    with pytest.raises(UserError, match="a number"):
        ClassList(note="unknown").number("cat")


def test_what_a_person_sees(finished_world: Path, tmp_path: Path) -> None:
    path = mini.copy_world(finished_world, tmp_path) / "config.yaml"
    verb("run", path, "--until", "select")
    plain = verb("inspect", path)
    assert plain.index("24 rows") < plain.index("entropy of the full distribution") < plain.index("timm:test_resnet")
    assert "disc" in plain and "█" in plain and "nats" in plain
    about = verb("inspect", path, "--image", "pool/pool-0.tar/007.jpg")
    where = f"pool/pool-0.tar/007.jpg: {path.parent / 'inputs/pool/pool-0.tar'}"
    assert where in about and "view 0 (evaluation)" in about and "the rest" in about
    biggest = json.loads(verb("inspect", path, "--json"))["classes"][0]["class"]
    assert "best" in verb("inspect", path, "--class", biggest)
    copy = json.loads(verb("inspect", path, "--image", "pool/pool-0.tar/copy.jpg", "--json"))
    assert copy["duplicates"][0]["is_duplicate"] and copy["labels"] == []
