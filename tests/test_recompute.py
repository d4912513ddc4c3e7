"""`ssld verify --recompute`: stored labels made again by the run's teacher, and labels that were tampered with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mini
import pyarrow as pa
import pytest
from test_provenance import ssld
from test_run import bring

from ssld_pipeline.config.load import load_config
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.soft_label import ROUNDING_STEP, largest_difference
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.training.views import REPLAY_COLUMNS
from ssld_pipeline.verify.recompute import recompute_labels


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done") / "runs"
    config = mini.write_world(folder, label={"num_kept": 2, "views": 1})
    bring(load_config(config), until="label")
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    """A copy of the tables and the config; the images stay where the catalog knows them."""
    shutil.copytree(done, tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy"


def tamper(folder: Path, change) -> tuple[str, int]:
    """Write one part anew with its first row changed, under the same fingerprint; the row's image and view."""
    table = Workspace(str(folder / "workspace")).tables["soft_labels"]
    part = min(table.parts().values(), key=lambda part: part.name)
    rows = table.read(part).to_pylist()
    rows[0] = change(rows[0])
    tampered = pa.Table.from_pylist(rows, table.contract.schema())
    new = table.write(tampered, {"part": part.name}, part.fingerprint, table.settings_of(part), table.roots_of(part))
    table.commit([new], [part])
    return rows[0]["image_id"], rows[0]["view"]


def test_what_is_stored_is_what_the_teacher_says(folder):
    found = recompute_labels(load_config(folder / "config.yaml"), 1000)
    assert found.num_rows == found.num_stored == 48
    assert not found.differences
    assert found.largest < 1e-4


def test_labels_depend_on_neither_part_nor_batch_nor_worker(folder):
    reference = labels(folder / "workspace")
    overrides = ("workspace=other", "catalog.images_per_part=3", "placement.label_batch_size=2")
    bring(load_config(folder / "config.yaml", overrides), until="label")
    again = labels(folder / "other")
    assert len({row["part"] for row in again.values()}) > len({row["part"] for row in reference.values()})
    assert again.keys() == reference.keys()
    for key, row in reference.items():
        other = again[key]
        assert largest_difference(row["class_ids"], row["probs"], other["class_ids"], other["probs"]) < 1e-5
        assert row["top1_prob"] == pytest.approx(other["top1_prob"], abs=1e-5)
        assert {name: row[name] for name in REPLAY_COLUMNS} == {name: other[name] for name in REPLAY_COLUMNS}


def labels(workspace: Path) -> dict[tuple[str, int], dict]:
    table = Workspace(str(workspace)).tables["soft_labels"]
    return {(r["image_id"], r["view"]): r for part in table.parts().values() for r in table.read(part).to_pylist()}


def test_a_sample_is_drawn_by_its_seed(folder):
    def drawn(seed: int) -> set[tuple[str, int]]:
        # nothing is within this tolerance, so that every row that was drawn is told
        found = recompute_labels(load_config(folder / "config.yaml"), 6, seed, tolerance=-1.0)
        assert found.num_rows == len(found.differences) == 6
        return {(d.image_id, d.view) for d in found.differences}

    assert drawn(1) == drawn(1) != drawn(2)


def surer(row: dict) -> dict:
    first, second = row["probs"]
    return {**row, "probs": [first + 0.125, second - 0.125], "top1_prob": row["top1_prob"] + 0.125}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (surer, "a probability differs by 0.12"),
        (lambda row: {**row, "class_ids": row["class_ids"][::-1], "top1_class": row["class_ids"][1]}, "a probability"),
        (lambda row: {**row, "entropy": row["entropy"] + 0.5}, "the entropy differs by 0.5"),
        (lambda row: {**row, "crop_left": row["crop_left"] + 1}, "another view: crop_left"),
        (lambda row: {**row, "flipped": not row["flipped"]}, "another view: flipped"),
    ],
)
def test_a_label_that_is_not_the_teachers_is_named(folder, change, says):
    image_id, view = tamper(folder, change)
    found = recompute_labels(load_config(folder / "config.yaml"), 1000)
    assert [(d.image_id, d.view) for d in found.differences] == [(image_id, view)]
    assert says in found.differences[0].why


def test_the_command_line_names_them_and_exits_with_1(folder):
    config = str(folder / "config.yaml")
    code, said = ssld("verify", config, "--recompute", "200", "--seed", "3")
    assert code == 0
    assert "48 of 48 labels made again" in said and "0 differ" in said
    image_id, view = tamper(folder, surer)
    code, said = ssld("verify", config, "--recompute", "200")
    assert code == 1
    assert f"{image_id}, view {view}: a probability differs by 0.12" in said
    code, said = ssld("verify", config, "--recompute", "200", "--json")
    found = json.loads(said)
    assert code == 1
    assert found["recomputed"]["num_different"] == 1
    assert found["recomputed"]["differences"][0]["image_id"] == image_id
    assert all(law["num_broken"] == 0 for law in found["laws"])
    assert ssld("verify", config, "--recompute", "200", "--tolerance", "0.2")[0] == 0


def test_an_image_that_is_gone_does_not_hold(folder):
    for tar in (folder / "inputs" / "pool").glob("*-0.tar"):
        tar.unlink()
    store = Workspace(str(folder / "workspace")).tables["catalog"]
    for part in store.parts().values():  # the catalog of the copy points into the copy
        rows = store.read(part)
        uris = [u.replace(str(_origin(rows, folder)), str(folder)) for u in rows["uri"].to_pylist()]
        rows = rows.set_column(rows.column_names.index("uri"), "uri", pa.array(uris))
        unit = {"part": part.name}
        store.commit([store.write(rows, unit, part.fingerprint, store.settings_of(part), {})], [part])
    found = recompute_labels(load_config(folder / "config.yaml"), 1000)
    assert len(found.differences) == 24
    assert {d.by for d in found.differences} == {None}
    assert "cannot be labelled again: unreadable" in found.differences[0].why


def _origin(rows: pa.Table, folder: Path) -> Path:
    return next(p for p in Path(rows["uri"][0].as_py()).parents if p.name == "inputs").parent


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("teacher.image_size=48", "config.image_size: 32 -> 48"),
        ("label.view_seed=1", "config.view_recipe.seed: 0 -> 1"),
        ("teacher.weights=other.safetensors", "weights.teacher"),
    ],
)
def test_other_settings_are_told_from_wrong_labels(folder, override, says):
    mini.write_teacher(folder / "other.safetensors", seed=1)
    with pytest.raises(UserError, match="labels were made otherwise") as caught:
        recompute_labels(load_config(folder / "config.yaml", (override,)), 10)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "override", ["label.num_kept=1", "label.num_kept=3", "label.views=0", "label.views=2", "placement.runner=ray"]
)
def test_more_or_fewer_classes_and_views_can_be_compared(folder, override):
    found = recompute_labels(load_config(folder / "config.yaml", (override,)), 1000)
    assert found.num_rows == (24 if override == "label.views=0" else 48)
    assert not found.differences


def test_nothing_labelled_yet(tmp_path):
    with pytest.raises(UserError, match="soft_labels is empty"):
        recompute_labels(load_config(mini.write_world(tmp_path / "runs")), 10)


def test_difference_of_labels():
    assert largest_difference([1, 2], [0.5, 0.25], [1, 2], [0.5, 0.25]) == 0
    assert largest_difference([1, 2], [0.5, 0.25], [2, 1], [0.5, 0.25]) == pytest.approx(0.25, abs=ROUNDING_STEP)
    # as probable as the last that is kept: places change, nothing differs
    assert largest_difference([1, 2], [0.5, 0.25], [1, 3], [0.5, 0.25]) == 0
    assert largest_difference([1, 2], [0.5, 0.25], [1, 3], [0.5, 0.05]) == pytest.approx(0.2, abs=ROUNDING_STEP)
    # the shorter one decides
    assert largest_difference([1], [0.5], [1, 3], [0.5, 0.4]) == 0
    # one step of the rounding is no difference
    assert largest_difference([1], [0.5], [1], [0.5 * (1 - ROUNDING_STEP)]) == 0
