"""Norm batches: statistics of batch norm belong to the recipe, how many pass through a network at once do not."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import trial
from safetensors.torch import load_file
from torch import nn

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.fit import Execution, fit
from ssld_pipeline.training.norm_batches import batch_norms, draws_at_random, split_norm_batches, track_running_stats
from ssld_pipeline.training.shares import require_shares

NETWORKS = ["test_resnet", "mobilenetv3_small_050"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return trial.world(tmp_path_factory.mktemp("world"))


def trained(folder: Path, tables: tuple[str, str], execution: Execution, **changes: Any) -> dict[str, torch.Tensor]:
    """One step: the second makes of 4e-6 in the MobileNet, whose last maps have one pixel of 8 images, 2e-3."""
    own = trial.job(
        tables[0],
        teacher=ModelSpec("timm:test_resnet", 3),
        objective=["symmetric_kl", "hard_ce", "dist", "decoupled_kd"],
        batch_size=32,
        norm_batch=8,
        steps=1,
        **changes,
    )
    fit(own, str(folder), fingerprint="f", execution=execution)
    return load_file(folder / "student.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("per_pass", [2, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_several_norm_batches_in_one_pass_train_what_one_at_a_time_trains(
    name: str, per_pass: int, tables: tuple[str, str], tmp_path: Path
) -> None:
    one, several = (
        trained(tmp_path / str(count), tables, Execution(norm_batches_per_pass=count), model=f"timm:{name}")
        for count in (1, per_pass)
    )
    assert one.keys() == several.keys() and any(name.endswith("running_var") for name in one)
    assert all(torch.allclose(one[name].float(), several[name].float(), atol=1e-5) for name in one)
    apart = trained(tmp_path / "apart", tables, Execution(), model=f"timm:{name}", seed=1)
    assert not all(torch.allclose(one[name].float(), apart[name].float(), atol=1e-5) for name in one)


@pytest.mark.slow
def test_what_is_drawn_at_random_is_drawn_for_one_norm_batch_at_a_time(tables: tuple[str, str], tmp_path: Path) -> None:
    model = {"model": "timm:test_efficientnet", "model_args": {"drop_rate": 0.3}}
    one, several = (
        trained(tmp_path / str(count), tables, Execution(norm_batches_per_pass=count), **model) for count in (1, 4)
    )
    assert all(torch.equal(one[name], several[name]) for name in one)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_split_network_normalises_as_separate_passes_do(name: str) -> None:
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3).train()
    split = copy.deepcopy(plain)
    split_norm_batches(split, 4)
    views = torch.randn(12, 3, 32, 32)
    expected = []
    for number, part in enumerate(views.split(4)):
        track_running_stats(batch_norms(plain), number == 0)
        expected.append(plain(part))
    assert torch.allclose(copy.deepcopy(split)(views), torch.cat(expected), atol=1e-5)
    split(views)
    own, theirs = split.state_dict(), plain.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.allclose(own[key], theirs[key], atol=1e-5) for key in own)
    assert torch.equal(split.eval()(views), split.eval()(views.flip(0)).flip(0)) or torch.allclose(
        split(views), split(views.flip(0)).flip(0), atol=1e-5
    ), "at rest an image does not see the others"


def test_dropout_and_drop_path_are_noticed_and_statistics_are_put_back() -> None:
    views = torch.randn(2, 3, 32, 32)
    plain = timm.create_model("test_efficientnet", num_classes=3).eval()
    before = copy.deepcopy(plain.state_dict())
    assert not draws_at_random(plain, views) and not plain.training
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    for name, arguments in (("test_efficientnet", {"drop_rate": 0.1}), ("test_resnet", {"drop_path_rate": 0.1})):
        assert draws_at_random(timm.create_model(name, num_classes=3, **arguments), views)


def test_batch_norm_without_running_statistics_keeps_none() -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    track_running_stats([norm], True)
    assert not norm.track_running_stats


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({"loss": "ce"}, "timm:test_resnet has batch norm"),
        ({"loss": "kl", "model": "timm:test_vit", "model_args": {"img_size": 32}}, "the teacher .* has batch norm"),
    ],
)
def test_a_large_batch_needs_a_norm_batch(
    changes: dict[str, Any], who: str, tables: tuple[str, str], tmp_path: Path
) -> None:
    rows = [{**row, "image_id": f"{number}/{row['image_id']}"} for number in range(8) for row in _rows(tables)]
    table = trial.write_table(tmp_path / "t.parquet", rows)
    teacher = None if changes["loss"] == "ce" else ModelSpec("timm:test_resnet", 3)
    own = replace(trial.job(table, batch_size=288, teacher=teacher, **changes), section="trainings.big")
    with pytest.raises(UserError, match=rf"{who}.* 288: set trainings.big.norm_batch.*32 for the ResNets"):
        fit(own, str(tmp_path / "t"), fingerprint="f")


def _rows(tables: tuple[str, str]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(tables[0]).to_pylist())


@pytest.mark.slow
def test_a_network_without_batch_norm_needs_none(tables: tuple[str, str], tmp_path: Path) -> None:
    rows = [{**row, "image_id": f"{number}/{row['image_id']}"} for number in range(8) for row in _rows(tables)]
    table = trial.write_table(tmp_path / "t.parquet", rows)
    own = trial.job(table, batch_size=288, model="timm:test_vit", model_args={"img_size": 32}, steps=1)
    assert fit(own, str(tmp_path / "t"), fingerprint="f")["images_per_norm"] == 144


def test_a_norm_batch_that_does_not_divide_the_batch_is_refused(tables: tuple[str, str], tmp_path: Path) -> None:
    """A measurement changes the batch of a checked recipe."""
    own = trial.job(tables[0], batch_size=24, norm_batch=12)
    smaller = replace(own, settings=own.settings.model_copy(update={"batch_size": 8}))
    with pytest.raises(UserError, match=r"train\.norm_batch \(12\) must divide batch_size \(8\)"):
        fit(smaller, str(tmp_path), fingerprint="f")


@pytest.mark.parametrize(("norm_batch", "processes", "hint"), [(12, 3, "8 gives"), (24, 2, "12 gives"), (24, 48, "No")])
def test_processes_that_cannot_share_the_norm_batches_are_refused(norm_batch: int, processes: int, hint: str) -> None:
    own = trial.job("t", batch_size=24, norm_batch=norm_batch)
    require_shares(own, 24 // norm_batch)
    said = rf"which {processes} processes cannot.*train_workers.*train.norm_batch.*{hint}"
    with pytest.raises(UserError, match=said):
        require_shares(own, processes)
