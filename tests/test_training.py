from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
import trial
from safetensors.torch import load_file, save_file

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.build import build
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.training import pace
from ssld_pipeline.training.data import Lost, TrainImages, read_rows
from ssld_pipeline.training.fit import Execution, fit
from ssld_pipeline.training.group import ALONE, Group
from ssld_pipeline.training.network import parameter_groups
from ssld_pipeline.training.reject_limit import RejectLimit

NOW = Execution(loader_threads=2, checkpoint_every_s=0)
"""A checkpoint after every step."""
ROLES = pa.chunked_array([["labeled"] * 20 + ["pool"] * 80])


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return trial.world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def teacher(tables: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, dict[str, Any]]:
    """A network fitted to the labels, with preprocessing of its own, and its final metrics."""
    folder = tmp_path_factory.mktemp("teacher")
    job = trial.job(*tables, steps=60, batch_size=16, lr=0.1)
    metrics = fit(job, str(folder), fingerprint="teacher")
    return ModelSpec("timm:test_resnet", 3, weights=str(folder / "student.safetensors")), metrics


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class KilledError(Exception):
    pass


def kill_at(step: int) -> Callable[[dict[str, Any]], None]:
    def report(row: dict[str, Any]) -> None:
        if row["step"] == step and "loss" in row:
            raise KilledError

    return report


pytestmark = pytest.mark.slow


def keep_until(step: int, rows: list[dict[str, Any]]) -> Callable[[dict[str, Any]], None]:
    def report(row: dict[str, Any]) -> None:
        rows.append(row)
        kill_at(step)(row)

    return report


def test_labels_are_learnt_and_the_folder_is_a_model(
    tables: tuple[str, str], teacher: tuple[ModelSpec, dict[str, Any]]
) -> None:
    spec, metrics = teacher
    assert metrics["validation_top1"] > 0.85 and metrics["validation_top5"] == 1 and metrics["rejects"] == []
    assert spec.weights is not None
    folder = Path(spec.weights).parent
    losses = [row["loss"] for row in rows_of(folder) if "loss" in row]
    assert losses[-1] < 0.5 * losses[0] and metrics["loss"] == losses[-1]
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "final.json",
        "metrics.jsonl",
        "student.safetensors",
    ]
    reloaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(reloaded.state_dict()["bn1.running_mean"], load_file(spec.weights)["bn1.running_mean"])


@pytest.mark.parametrize("loss", ["symmetric_kl", "js"])
def test_a_student_learns_the_classes_from_the_teacher_without_labels(
    loss: str, tables: tuple[str, str], teacher: tuple[ModelSpec, dict[str, Any]], tmp_path: Path
) -> None:
    rows = read_rows([tables[0]], ["labeled"], labelled=False).to_pylist()
    unlabelled = trial.write_table(tmp_path / "pool.parquet", [{**row, "class_id": None} for row in rows], "labeled")
    job = trial.job(
        unlabelled, tables[1], teacher=teacher[0], steps=50, batch_size=16, lr=0.1, loss=loss, validations=1
    )
    assert fit(job, str(tmp_path), fingerprint="f")["validation_top1"] > 0.7


@pytest.mark.parametrize("killed_at", [1, 7, 11])
def test_a_run_killed_and_resumed_ends_with_the_weights_of_one_that_was_not(
    killed_at: int, tables: tuple[str, str], teacher: tuple[ModelSpec, dict[str, Any]], tmp_path: Path
) -> None:
    """Batch norm, dropout, momentum and a teacher whose batch norm moves; epochs of 6 steps."""
    job = trial.job(
        *tables,
        model="timm:test_efficientnet",
        model_args={"drop_rate": 0.3},
        teacher=teacher[0],
        loss="symmetric_kl",
        warmup_epochs=1,
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(job, str(whole), fingerprint="f")
    with pytest.raises(KilledError):
        fit(job, str(broken), fingerprint="f", execution=NOW, report=kill_at(killed_at))
    torch.rand(5)  # the second process has another history
    fit(job, str(broken), fingerprint="f", execution=NOW)
    expected, found = (load_file(folder / "student.safetensors") for folder in (whole, broken))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    logged = [
        [
            {k: v for k, v in row.items() if k not in ("images_per_s", "data_wait")}
            for row in rows_of(folder)
            if "resumed_at" not in row
        ]
        for folder in (whole, broken)
    ]
    assert logged[0] == logged[1]


def test_the_loss_of_steps_between_two_rows_survives_a_resume(
    tables: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between step 20 and the end there is no row; the kill comes at step 41."""
    job = trial.job(tables[0], steps=60, lr=0.01, batch_size=2, image_size=16)
    never = replace(NOW, log_every_s=1e9)
    monkeypatch.setattr(pace, "_LEAST_ROWS", 1)
    original = TrainImages.batches

    def short(self: TrainImages, first: int, last: int, num_threads: int) -> Any:
        for step, batch in enumerate(original(self, first, last, num_threads), start=first):
            if step == 41:
                raise KilledError
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainImages, "batches", short)
        with pytest.raises(KilledError):
            fit(job, str(tmp_path), fingerprint="f", execution=never)
    seen: list[dict[str, Any]] = []
    fit(job, str(tmp_path), fingerprint="f", execution=never, report=seen.append)
    fit(job, str(tmp_path / "whole"), fingerprint="f", execution=never)
    assert seen[0] == {"stage": "train", "step": 41, "resumed_at": 41}
    assert [row["step"] for row in rows_of(tmp_path) if "loss" in row] == [*range(1, 21), 60]
    last = [rows_of(folder)[-1]["loss"] for folder in (tmp_path, tmp_path / "whole")]
    assert last[0] == pytest.approx(last[1], rel=1e-9)


def test_a_finished_run_is_not_done_again_and_another_fingerprint_is(tables: tuple[str, str], tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []
    job = trial.job(*tables, steps=2, validations=1)
    first = fit(job, str(tmp_path), fingerprint="a")
    assert fit(job, str(tmp_path), fingerprint="a", report=calls.append) == first and not calls
    fit(job, str(tmp_path), fingerprint="b", report=calls.append)
    assert calls


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_step(tables: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite at step \d+ of 40 \(lr .*smaller lr \(now 1e\+09"):
        fit(trial.job(*tables, steps=40, lr=1e9), str(tmp_path), fingerprint="f", execution=NOW)
    states = [load_file(path) for path in tmp_path.glob("checkpoint-*")]
    assert not (tmp_path / "student.safetensors").exists() and len(states) < 3


def test_bad_images_are_counted_once_and_others_take_their_place(tables: tuple[str, str], tmp_path: Path) -> None:
    rows = trial.write_images(tmp_path / "images", 4)
    Path(rows[3]["uri"]).write_bytes(b"no image at all, but as long as it likes"[: rows[3]["size_bytes"]])
    rows[3]["size_bytes"] = Path(rows[3]["uri"]).stat().st_size
    Path(rows[8]["uri"]).unlink()
    table = trial.write_table(tmp_path / "t.parquet", rows)
    job = trial.job(table, steps=9, batch_size=4, max_reject_share=0.1)
    metrics = fit(job, str(tmp_path / "trial"), fingerprint="f")
    assert [(r["image_id"], r["reason"]) for r in metrics["rejects"]] == [
        ("images/003.png", "not_an_image"),
        ("images/008.png", "unreadable"),
    ]
    assert metrics["steps"] == 9


def test_a_pool_that_is_gone_stops_the_run_which_goes_on_when_it_is_back(tmp_path: Path) -> None:
    """42 labelled and 6 mined images: less than a tenth of an epoch is lost, and all of the pool."""
    rows = trial.write_images(tmp_path / "labeled", 14)
    mined = [{**row, "role": "pool"} for row in trial.write_images(tmp_path / "pool", 2, first=500)]
    job = trial.job(trial.write_table(tmp_path / "t.parquet", rows + mined), steps=30, validations=0)
    job = replace(job, roles=("labeled", "pool"))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fit(job, str(whole), fingerprint="f")
    with pytest.raises(KilledError):
        fit(job, str(broken), fingerprint="f", execution=NOW, report=kill_at(11))
    (tmp_path / "pool").rename(tmp_path / "elsewhere")
    said: list[dict[str, Any]] = []
    gone = (
        r"train: \d of the 6 images of role pool .*train.max_reject_share \(0.05\).*pool/00\d.png \(unreadable No such"
    )
    with pytest.raises(UserError, match=gone):
        fit(job, str(broken), fingerprint="f", report=said.append)
    assert said[0]["resumed_at"] == 10 and said[-1]["step"] <= 12, "at the first mined image beyond the share"
    assert not (broken / "student.safetensors").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "pool")
    fit(job, str(broken), fingerprint="f")
    expected, found = (load_file(folder / "student.safetensors") for folder in (whole, broken))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("reason", "steps", "lost", "stops"),
    [
        ("unreadable", 40, 1, False),  # .05 of 20
        ("unreadable", 40, 2, True),
        ("not_an_image", 40, 10, False),  # a share means nothing of so few
        ("not_an_image", 40, 11, True),
        ("unreadable", 2, 1, True),  # half an epoch
    ],
)
def test_an_epoch_may_lose_its_share_of_a_role(reason: str, steps: int, lost: int, stops: bool) -> None:
    limit = RejectLimit(trial.job("t", steps=steps), ROLES, 4, steps)
    for number in range(lost):
        limit.add(number % 4, [Lost("labeled", reason)])
    limit.add(3, [Lost("pool", reason)])
    assert bool(limit.exceeded(ALONE)) is stops
    limit.add(4, [])
    assert limit.exceeded(ALONE) is None, "another epoch is another count"


def test_what_the_processes_of_a_group_lose_adds_up() -> None:
    class Twins(Group):
        def sum_counts(self, counts: Any) -> Any:
            return 2 * counts

    limit = RejectLimit(trial.job("t"), ROLES, 4, 40)
    limit.add(0, [Lost("labeled", "unreadable")])
    assert limit.exceeded(ALONE) is None
    assert limit.exceeded(Twins(size=2)) == "2 of the 20 images of role labeled that are seen in an epoch"


def test_a_validation_of_no_image_has_no_figure(tables: tuple[str, str], tmp_path: Path) -> None:
    rows = trial.write_images(tmp_path / "validation", 2)
    gone = trial.write_table(tmp_path / "v.parquet", [{**row, "uri": "/nowhere"} for row in rows], "protected")
    assert "validation_top1" not in fit(trial.job(tables[0], gone, steps=2), str(tmp_path / "t"), fingerprint="f")


def test_a_folder_of_bad_images_is_refused(tmp_path: Path) -> None:
    rows = trial.write_images(tmp_path / "images", 4)
    for row in rows:
        Path(row["uri"]).unlink()
    job = trial.job(trial.write_table(tmp_path / "t.parquet", rows))
    with pytest.raises(UserError, match="images in a row cannot be used"):
        fit(job, str(tmp_path / "trial"), fingerprint="f")


def test_hard_labels_need_a_class_and_roles_are_kept_apart(tables: tuple[str, str], tmp_path: Path) -> None:
    rows = trial.write_images(tmp_path / "images", 4)
    rows[0]["class_id"], rows[1]["role"] = None, "pool"
    table = trial.write_table(tmp_path / "t.parquet", rows)
    assert len(read_rows([table], ["labeled"], labelled=True)) == 10
    assert len(read_rows([table], ["labeled", "pool"], labelled=False)) == 12
    with pytest.raises(UserError, match="train: a batch of 8 cannot be made of 0 labelled images of role teacher"):
        fit(replace(trial.job(table), roles=("teacher",)), str(tmp_path), fingerprint="f")


def test_only_the_classifier_moves_where_only_it_is_trainable(tables: tuple[str, str], tmp_path: Path) -> None:
    torch.manual_seed(5)
    start = build(ModelSpec("timm:test_resnet", 3))
    save_weights(start, tmp_path / "start.safetensors")
    spec = ModelSpec("timm:test_resnet", 3, weights=str(tmp_path / "start.safetensors"))
    job = replace(trial.job(tables[0], trainable="classifier", steps=3), student=spec)
    fit(job, str(tmp_path / "trial"), fingerprint="f")
    before, after = (load_file(tmp_path / name) for name in ("start.safetensors", "trial/student.safetensors"))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("norms_too", [True, False])
@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_efficientnet", "timm:test_vit"])
def test_weight_decay_spares_normalisation_layers_only(name: str, norms_too: bool) -> None:
    """BatchNorm2d, BatchNormAct2d and LayerNorm; the biases of convolutions and classifiers are decayed."""
    model = build(ModelSpec(name, 3))
    groups = parameter_groups(model, trial.settings(weight_decay=0.1, weight_decay_norm=norms_too))
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    spared = {key for key, p in model.named_parameters() if id(p) not in decayed}
    layers = {
        key.removesuffix("weight") for key, p in model.named_parameters() if key.endswith("weight") and p.ndim == 1
    }
    norms = {layer + name for layer in layers for name in ("weight", "bias")}
    assert norms and spared == (set() if norms_too else norms)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_teachers_batch_norm_uses_the_statistics_it_is_told_to(
    mode: str, tables: tuple[str, str], teacher: tuple[ModelSpec, dict[str, Any]], tmp_path: Path
) -> None:
    """Nonsense in the running statistics is seen with eval and not with train."""
    spec = teacher[0]
    tensors = load_file(str(spec.weights))
    spoilt = {k: v + 3 if k.endswith("running_mean") else v for k, v in tensors.items()}
    save_file(spoilt, tmp_path / "spoilt.safetensors")
    losses = []
    for weights in (str(spec.weights), str(tmp_path / "spoilt.safetensors")):
        job = trial.job(
            tables[0],
            steps=2,
            loss="symmetric_kl",
            teacher_batch_norm=mode,
            teacher=ModelSpec(spec.model, 3, weights=weights),
        )
        losses.append(fit(job, str(tmp_path / str(len(losses))), fingerprint="f")["loss"])
    assert (losses[0] == pytest.approx(losses[1], rel=1e-4)) is (mode == "train")


def test_an_epoch_holds_each_image_once_whatever_the_number_of_ranks(tables: tuple[str, str]) -> None:
    rows = read_rows([tables[0]], ["labeled"], labelled=True)
    settings = trial.settings(batch_size=8)
    alone = list(TrainImages(rows, settings).places(0, 12))
    ranks = [list(TrainImages(rows, settings, rank, 4).places(0, 12)) for rank in range(4)]
    shares = [zip(*[iter(own)] * 2, strict=True) for own in ranks]
    dealt = [place for step in zip(*shares, strict=True) for share in step for place in share]
    assert [(p.epoch, p.order[p.place]) for p in dealt] == [(p.epoch, p.order[p.place]) for p in alone]
    first, second = (sorted(p.order[p.place] for p in alone if p.epoch == epoch) for epoch in (0, 1))
    assert first == second == list(range(48))
    assert [p.order[p.place] for p in alone[:48]] != [p.order[p.place] for p in alone[48:]]


def test_batches_do_not_depend_on_threads_nor_on_where_a_run_goes_on(tables: tuple[str, str]) -> None:
    images = TrainImages(read_rows([tables[0]], ["labeled"], labelled=True), trial.settings(batch_size=8))
    whole = [batch.views for batch in images.batches(0, 9, num_threads=1)]
    rest = [batch.views for batch in images.batches(4, 9, num_threads=3)]
    assert all(np.array_equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert not np.array_equal(whole[0], whole[6])


def test_a_batch_that_ranks_cannot_share_is_refused(tables: tuple[str, str]) -> None:
    rows = read_rows([tables[0]], ["labeled"], labelled=True)
    with pytest.raises(UserError, match="batch_size 8 cannot be shared by 3"):
        TrainImages(rows, trial.settings(batch_size=8), rank=0, world_size=3)


def test_the_rate_of_each_step_is_the_schedules(tables: tuple[str, str], tmp_path: Path) -> None:
    """12 steps, 3 of them warm-up from 0: the first changes no weight, the fourth has the peak."""
    job = trial.job(tables[0], steps=None, epochs=2, warmup_epochs=0.5, lr=0.09, weight_decay=0.1)
    fit(job, str(tmp_path), fingerprint="f")
    rates = [row["lr"] for row in rows_of(tmp_path) if "loss" in row]
    falling = 0.045 * (1 + np.cos(np.pi * np.arange(9) / 9))
    assert rates == pytest.approx([0, 0.03, 0.06, *falling])
