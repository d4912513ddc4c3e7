"""What changes make of labels that are there: kept, extended by what is missing, or made anew; and training on them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mini
import numpy as np
import pyarrow as pa
import pytest
from test_run import assert_lawful, bring, planned, ran

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.config.training import TrainingConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.read import ImageReader
from ssld_pipeline.kernels.soft_label import dense
from ssld_pipeline.queries.sql import run_sql
from ssld_pipeline.store.fingerprints import Fingerprint
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.training import predictions
from ssld_pipeline.training.data import TrainImages, read_rows
from ssld_pipeline.training.job import StoredTeacher
from ssld_pipeline.training.recipe import Recipe
from ssld_pipeline.training.stored_labels import read_labels
from ssld_pipeline.training.views import REPLAY_COLUMNS, Replay, replay_view
from ssld_pipeline.verify.laws import verify_laws
from ssld_pipeline.verify.recompute import recompute_labels

RECIPE = Recipe(32, 0.875)
STORED = ("label.views=2", "train.teacher=stored", "train.teacher_batch_norm=eval", "train.loss=js")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled, and training on stored views configured."""
    folder = tmp_path_factory.mktemp("views") / "runs"
    bring(load_config(mini.write_world(folder, finetune=None, baseline=None), STORED), until="label")
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    return mini.copy_world(done, tmp_path)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each view's number was cut for the teacher."""
    counts: Counter[int] = Counter()
    genuine = predictions.cut_views

    def counted(piece, **how):
        block = genuine(piece, **how)
        counts.update(block.views)
        return block

    monkeypatch.setattr(predictions, "cut_views", counted)
    return counts


def labels(config: RunConfig, where: str = "true") -> dict[tuple[str, int], dict]:
    rows = run_sql(Workspace(config.workspace), f"SELECT * FROM soft_labels WHERE {where}").to_pylist()
    return {(row["image_id"], row["view"]): row for row in rows}


def test_every_image_has_its_views_and_labelled_ones_no_evaluation_view(folder):
    config = load_config(folder / "config.yaml", STORED)
    counts = Counter((image_id.split("/")[0], view) for image_id, view in labels(config))
    assert counts == {("pool", 0): 24, ("pool", 1): 24, ("pool", 2): 24, ("labeled", 1): 24, ("labeled", 2): 24}
    assert_lawful(config)


def test_more_views_compute_the_new_ones_alone(folder, cut):
    before = labels(load_config(folder / "config.yaml", STORED))
    config = load_config(folder / "config.yaml", (*STORED, "label.views=4"))
    assert planned(config)["label"].reasons() == [("config.views: 2 -> 4", 13)]
    bring(config, until="label")
    assert cut == {3: 48, 4: 48}
    after = labels(config)
    assert {key: after[key] for key in before} == before and len(after) == 24 * 5 + 24 * 4
    assert_lawful(config)
    assert not planned(config)["label"].changes


def test_fewer_views_or_classes_compute_nothing(folder, cut):
    for change in ("label.views=1", "label.num_kept=1"):
        config = load_config(folder / "config.yaml", (*STORED, change))
        assert not planned(config)["label"].changes
        assert "label" not in ran(bring(config, until="label"))
        assert_lawful(config)
    assert not cut


def test_more_classes_label_everything_again(folder, cut):
    config = load_config(folder / "config.yaml", (*STORED, "label.num_kept=3"))
    bring(config, until="label")
    assert cut == {0: 24, 1: 48, 2: 48}
    assert {len(row["probs"]) for row in labels(config).values()} == {3}


def make_old(folder: Path, change: float = 0.0) -> None:
    """Write soft_labels as programs did before tails were exact: 1 minus the sum of the rounded probabilities.

    ``change`` is added to each tail, which is never made negative.
    """
    table = Workspace(str(folder / "workspace")).tables["soft_labels"]
    for part in table.parts().values():
        settings, rows = table.settings_of(part), table.read(part).to_pylist()
        assert settings["config"].pop("exact_tail")
        tails = [{"tail_prob": np.float32(max(0.0, 1 - sum(row["probs"]) + change))} for row in rows]
        old = pa.Table.from_pylist([row | tail for row, tail in zip(rows, tails, strict=True)], table.contract.schema())
        fingerprint = Fingerprint.of(settings, table.inputs_of(part))
        unit = {"part": part.name}
        new = table.write(old, unit, fingerprint, settings, table.roots_of(part), inputs=table.inputs_of(part))
        table.commit([new], [part])


def test_labels_with_rounded_tails_serve_as_they_are(folder, cut):
    make_old(folder)
    config = load_config(folder / "config.yaml", STORED)
    assert not planned(config)["label"].changes
    assert bring(config)["train"].ran == 1
    assert_lawful(config)
    assert not recompute_labels(config, 1000).differences
    cut.clear()
    old = labels(config)
    more = load_config(folder / "config.yaml", (*STORED, "label.views=3"))
    assert planned(more)["label"].reasons() == [("config.views: 2 -> 3", 13)]
    bring(more, until="label")
    assert cut == {3: 48}
    assert {key: row for key, row in labels(more).items() if key in old} == old
    assert_lawful(more)


def test_rounded_tails_are_labelled_again_for_symmetric_kl(folder, cut):
    """Those that were kept beside new views, too; and the plan says which training wants it."""
    exact = labels(load_config(folder / "config.yaml", STORED))
    make_old(folder)
    bring(load_config(folder / "config.yaml", (*STORED, "label.views=3")), until="label")
    config = load_config(folder / "config.yaml", (*STORED, "label.views=3", "train.loss=symmetric_kl"))
    online = load_config(folder / "config.yaml", ("train.loss=symmetric_kl",))
    assert not planned(online)["label"].changes
    reason = "stored tails are rounded; training train learns symmetric_kl from them"
    assert planned(config)["label"].reasons() == [(reason, 13)]
    cut.clear()
    bring(config, until="label")
    assert cut == {0: 24, 1: 48, 2: 48, 3: 48}
    after = labels(config)
    assert {key: after[key] for key in exact} == exact
    assert not planned(config)["label"].changes
    assert_lawful(config)


def test_more_classes_of_rounded_tails_give_exact_ones(folder, cut):
    make_old(folder)
    more = ("label.num_kept=3", *STORED)
    assert planned(load_config(folder / "config.yaml", more))["label"].reasons() == [("config.num_kept: 2 -> 3", 13)]
    bring(load_config(folder / "config.yaml", more), until="label")
    assert not planned(load_config(folder / "config.yaml", (*more, "train.loss=symmetric_kl")))["label"].changes


def test_a_changed_archive_of_rounded_tails_gives_exact_ones(folder, cut):
    """Its part alone is not labelled again when a training needs them."""
    make_old(folder)
    members = mini.pool_tar(0)
    members["003.jpg"] = mini.jpeg(mini.draw(1, 77))
    mini.write_tar(folder / "inputs/pool/pool-0.tar", members)
    bring(load_config(folder / "config.yaml", STORED), until="label")
    assert cut[0] == 12
    config = load_config(folder / "config.yaml", (*STORED, "train.loss=symmetric_kl"))
    changed = {unit.name for unit in planned(config)["label"].of("run")}
    kept = {unit.name for unit in planned(config)["label"].units} - changed
    assert kept and all("pool-0" in name for name in kept) and not any("pool-0" in name for name in changed)


def test_fewer_classes_than_are_stored_leave_the_others_to_the_tail(folder):
    """Scaled as the classes that are read."""
    config = load_config(folder / "config.yaml", STORED)
    stored = labels(config, '"view" = 1')
    image_ids = pa.array([image_id for image_id, _ in stored])
    found = read_labels(Workspace(config.workspace).tables["soft_labels"].uris(), image_ids, num_views=1, num_kept=1)
    for row, tail in zip(stored.values(), found.tail_probs[:, 0], strict=True):
        second = row["probs"][1] * (1 - row["tail_prob"]) / sum(row["probs"])
        assert tail == pytest.approx(row["tail_prob"] + second, abs=1e-6)
    rounded = np.array([1 - row["probs"][0] for row in stored.values()])
    assert np.abs(found.tail_probs[:, 0] - rounded).max() > 1e-4  # not what the rounding of the first left


@pytest.mark.parametrize(("change", "is_broken"), [(-0.01, True), (-0.001, False), (0.01, True)])
def test_a_tail_that_the_rounding_does_not_explain_breaks_the_law(folder, change, is_broken):
    """Rounding takes less than 2^-7 of the kept probabilities, and never adds."""
    make_old(folder, change)
    config = load_config(folder / "config.yaml", STORED)
    broken = {v.law.name for v in verify_laws(Workspace(config.workspace), config) if v.num_broken}
    assert broken == ({"probs"} if is_broken else set())


def test_another_recipe_keeps_the_evaluation_views(folder, cut):
    config = load_config(folder / "config.yaml", (*STORED, "label.view_jitter=0.2"))
    bring(config, until="label")
    assert cut == {1: 48, 2: 48}
    assert len({row["contrast"] for row in labels(config, '"view" > 0').values()}) > 90
    assert {row["contrast"] for row in labels(config, '"view" = 0').values()} == {1.0}


def test_another_teacher_keeps_nothing(folder, cut):
    mini.write_teacher(folder / "teacher.safetensors", seed=1)
    bring(load_config(folder / "config.yaml", STORED), until="label")
    assert cut == {0: 24 + 24, 1: 48, 2: 48}  # check_teacher looks at labelled images


def test_an_image_that_dedupe_lets_go_is_labelled_alone(folder, cut):
    """A threshold, or a list, that changes which images are removed does not cost the labels of the others."""
    before = labels(load_config(folder / "config.yaml", STORED))
    (folder / "allow.txt").write_text("pool/pool-0.tar/copy.jpg\n")
    (folder / "deny.txt").write_text("pool/pool-1.tar/003.jpg\n")
    config = load_config(folder / "config.yaml", (*STORED, "dedupe.allow=allow.txt", "dedupe.deny=deny.txt"))
    bring(config, until="label")
    assert cut == {0: 1, 1: 1, 2: 1}
    after = labels(config)
    assert {i for i, _ in after.keys() - before.keys()} == {"pool/pool-0.tar/copy.jpg"}
    assert {i for i, _ in before.keys() - after.keys()} == {"pool/pool-1.tar/003.jpg"}
    assert all(after[key] == before[key] for key in after.keys() & before.keys())
    assert_lawful(config)


def test_a_changed_archive_keeps_no_label_of_it(folder, cut):
    members = mini.pool_tar(0)
    members["003.jpg"] = mini.jpeg(mini.draw(1, 77))
    mini.write_tar(folder / "inputs/pool/pool-0.tar", members)
    config = load_config(folder / "config.yaml", STORED)
    bring(config, until="label")
    assert cut[0] == 12
    assert_lawful(config)


def test_training_replays_what_the_teacher_saw(folder):
    """Pixels bit for bit, and the label that stands beside them; another view of an image in every epoch."""
    config = load_config(folder / "config.yaml", STORED)
    bring(config, until="select")
    stored = labels(config, '"view" > 0')
    tables = Workspace(config.workspace).tables
    rows = read_rows(tables["manifest"].uris(), ("labeled", "pool"), labelled=False)
    settings = TrainingConfig(batch_size=7, image_size=32, epochs=2)
    teacher = StoredTeacher(tuple(tables["soft_labels"].uris()), num_views=2, num_kept=2, recipe=RECIPE)
    images = TrainImages(rows, settings, stored=teacher)
    expected = {
        key: _replayed(rows, *key, row) for key, row in stored.items() if key[0] in rows["image_id"].to_pylist()
    }
    per_epoch = len(rows) // 7
    seen: list[tuple[str, int]] = []
    for batch in images.batches(0, 2 * per_epoch, num_threads=2):
        for k, view in enumerate(batch.views):
            key = next(key for key, (pixels, _) in expected.items() if np.array_equal(pixels, view))
            seen.append(key)
            label = dense(batch.labels.class_ids[[k]], batch.labels.probs[[k]], batch.labels.tail_prob[[k]], 3)
            np.testing.assert_allclose(label[0], expected[key][1], atol=1e-6)
    assert len(set(seen)) == len(seen)


def _replayed(rows, image_id: str, view: int, row: dict) -> tuple[np.ndarray, np.ndarray]:
    place = rows["image_id"].to_pylist().index(image_id)
    data = ImageReader().read(*(rows[c][place].as_py() for c in ("uri", "offset", "size_bytes")))
    label = dense(*(np.array([row[c]]) for c in ("class_ids", "probs", "tail_prob")), 3)
    return replay_view(data, Replay(*(row[c] for c in REPLAY_COLUMNS)), RECIPE), label[0]


def test_a_student_learns_from_stored_labels_and_again_only_when_they_change(folder):
    config = load_config(folder / "config.yaml", STORED)
    reports = bring(config)
    assert reports["train"].ran == 1 and reports["train"].figures["loss"] < 1.1
    assert not planned(config)["train"].changes
    more = load_config(folder / "config.yaml", (*STORED, "label.views=3"))
    assert planned(more)["train"].changes
    online = load_config(folder / "config.yaml", ("train.teacher=online", "train.teacher_batch_norm=eval"))
    assert planned(online)["train"].changes


def test_views_of_the_labelled_images_outlast_a_run_with_the_teacher_online(folder, cut):
    online = load_config(folder / "config.yaml", ("train.teacher_batch_norm=eval",))  # else the check measures anew
    before = labels(online)
    assert not planned(online)["label"].changes
    bring(online, until="select")
    assert_lawful(online)
    assert not planned(load_config(folder / "config.yaml", STORED))["label"].changes
    mini.write_teacher(folder / "teacher.safetensors", seed=1)
    foreseen = planned(online)["label"]
    assert {unit.name.split("/")[0]: unit.reasons for unit in foreseen.of("remove")} == {
        "labeled": ("not asked for, and of other settings",)
    }
    assert not cut and labels(online) == before


def test_an_image_without_a_stored_view_is_counted_and_another_takes_its_place(folder):
    config = load_config(folder / "config.yaml", STORED)
    bring(config, until="select")
    tables = Workspace(config.workspace).tables
    rows = read_rows(tables["manifest"].uris(), ("labeled", "pool"), labelled=False)
    parts = [p for p in tables["soft_labels"].parts().values() if not p.name.startswith("labeled/disc")]
    assert len(parts) < len(tables["soft_labels"].parts())
    teacher = StoredTeacher(tuple(tables["soft_labels"].uris(parts)), 2, 2, RECIPE)
    images = TrainImages(rows, TrainingConfig(batch_size=8, image_size=32, epochs=1), stored=teacher)
    batches = list(images.batches(0, len(rows) // 8, num_threads=1))
    assert {reject.reason for reject in images.rejects.values()} == {"not_labelled"}
    assert all(image_id.startswith("labeled/disc") for image_id in images.rejects)
    assert sum(len(batch.views) for batch in batches) == len(rows) // 8 * 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("label.views=0",), "train.teacher: stored needs stored views"),
        (("train.image_size=40",), "train.mismatched_views: accept"),
        (("train.teacher_batch_norm=train",), "running statistics"),
        (("train.min_crop_area=0.3",), "label.view_min_crop_area 0.08"),
    ],
)
def test_stored_labels_are_never_mixed_with_other_views(folder, changes, message):
    with pytest.raises(UserError, match=message):
        load_config(folder / "config.yaml", (*STORED, *changes))


def test_another_size_can_be_accepted(folder):
    config = load_config(
        folder / "config.yaml", (*STORED, "train.image_size=40", "train.mismatched_views=accept", "train.epochs=1")
    )
    assert bring(config)["train"].ran == 1
