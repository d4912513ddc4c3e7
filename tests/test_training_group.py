"""Processes over gloo train what one process trains: their number is no part of the recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import trial
from safetensors.torch import load_file
from torch import nn

from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training import gradients
from ssld_pipeline.training.fit import Execution, fit
from ssld_pipeline.training.folder import TrialFolder
from ssld_pipeline.training.group import ALONE, Group
from ssld_pipeline.training.job import TrainJob

pytestmark = pytest.mark.slow

NOW = Execution(loader_threads=1, checkpoint_every_s=0)
KILLED_AT = 7


class KilledError(Exception):
    pass


def kill(row: dict[str, Any]) -> None:
    if row["step"] == KILLED_AT and "loss" in row:
        raise KilledError


def job(tables: tuple[str, str], norm_batch: int, **changes: Any) -> TrainJob:
    """Dropout, batch norm in student and teacher, terms of some rows and of norm batches, an unreadable image."""
    terms = [{"term": "symmetric_kl"}, {"term": "hard_ce", "weight": 0.5}, {"term": "dist", "weight": 0.5}]
    settings = {"batch_size": 24, "norm_batch": norm_batch, "steps": 12, "objective": terms, "lr": 0.02, **changes}
    arguments = {"model": "timm:test_efficientnet", "model_args": {"drop_rate": 0.3}}
    found = trial.job(*tables, **arguments, teacher=ModelSpec("timm:test_resnet", 3), **settings)
    return replace(found, roles=("labeled", "pool"))


def in_group(rank: int, size: int, rendezvous: str, work: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # processes have histories of their own
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=size)
    work()
    dist.destroy_process_group()


def spawn(size: int, folder: Path, work: Callable[[], None]) -> None:
    rendezvous = folder / f"rendezvous-{len(list(folder.glob('rendezvous*')))}"
    mp.spawn(in_group, (size, str(rendezvous), work), nprocs=size)


class WholeThenKilled:
    """Leaves ``short`` and ``whole``, and in ``broken`` the checkpoints of a run that ends with an exception in rank 0.

    ``short`` has 3 steps: batch norm over so few images makes a rounding error of 6e-8 after the first step 3e-6 after
    3 and 3e-2 after 12.
    """

    def __init__(self, folder: Path, own: TrainJob) -> None:
        self.folder, self.job = folder, own

    def __call__(self) -> None:
        fit(short(self.job), str(self.folder / "short"), fingerprint="f", execution=NOW)
        found = {"metrics": fit(self.job, str(self.folder / "whole"), fingerprint="f", execution=NOW)}
        group = Group.current("cpu")
        found["counts"] = group.sum_counts(np.array([group.rank + 1, 10])).tolist()
        (self.folder / f"rank{group.rank}.json").write_text(json.dumps(found))
        fit(self.job, str(self.folder / "broken"), fingerprint="f", execution=NOW, report=kill)


def short(own: TrainJob) -> TrainJob:
    return replace(own, settings=own.settings.model_copy(update={"steps": 3}))


class Resume:
    """Only rank 0 can read what is in the folder: elsewhere it may be damaged, or not yet to be seen."""

    def __init__(self, folder: Path, own: TrainJob) -> None:
        self.folder, self.job = folder, own

    def __call__(self) -> None:
        if Group.current("cpu").rank:
            TrialFolder.read = refuse  # type: ignore[method-assign]
        fit(self.job, str(self.folder), fingerprint="f", execution=NOW)


class SumThenResume(Resume):
    def __call__(self) -> None:
        require_summed_gradients(Group.current("cpu"))
        super().__call__()


def require_summed_gradients(group: Group) -> None:
    """Of a network with a parameter that takes no part, in several buckets, over two parts of a batch."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 5))
    network = network.to(memory_format=torch.channels_last)
    network.unused = nn.Parameter(torch.ones(3))
    gradients.BUCKET_BYTES = 64
    summed = gradients.GradientSum(network.parameters(), group)
    batch = torch.randn(8, 3, 4, 4)
    for number, part in enumerate(batch.split(2)[2 * group.rank :][:2]):
        summed.backward(network(part).square().sum(), last=number == 1)
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    assert found.keys() == {"0.weight", "0.bias", "3.weight", "3.bias"}
    network.zero_grad()
    gradients.GradientSum(network.parameters(), ALONE).backward(network(batch).square().sum(), last=True)
    for name, gradient in found.items():
        expected = network.get_parameter(name).grad
        assert expected is not None and torch.allclose(gradient, expected, rtol=1e-5)


def refuse(folder: TrialFolder, name: str) -> bytes:
    raise OSError(f"{folder.uri}/{name} cannot be read")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student.safetensors")


def are_equal(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys() and any("running_var" in name for name in a)
    return all(torch.equal(a[name], b[name]) for name in a)


def largest_difference(one: Path, other: Path) -> float:
    a, b = weights(one), weights(other)
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """16 labelled images and 32 mined ones, one of which is gone."""
    root = tmp_path_factory.mktemp("tables")
    rows = trial.write_images(root / "images", 16)
    rows = [{**row, "role": "labeled" if number < 16 else "pool"} for number, row in enumerate(rows)]
    Path(rows[40]["uri"]).unlink()
    validation = trial.write_table(root / "v.parquet", trial.write_images(root / "v", 3, 1000), "protected")
    return trial.write_table(root / "train.parquet", rows), validation


@pytest.fixture(scope="module")
def four(tables: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By 4 processes: ``short``, ``whole``, ``broken`` resumed by 4, ``fewer`` resumed by 2. ``one``: short, by one."""
    return trained(tmp_path_factory.mktemp("four"), 4, job(tables, 6, max_reject_share=1.0), fewer=2)


def trained(folder: Path, size: int, own: TrainJob, fewer: int = 0) -> Path:
    with pytest.raises(mp.ProcessRaisedException, match="KilledError"):
        spawn(size, folder, WholeThenKilled(folder, own))
    assert list((folder / "broken").glob("checkpoint-*"))
    if fewer:
        shutil.copytree(folder / "broken", folder / "fewer")
        spawn(fewer, folder, Resume(folder / "fewer", own))
    spawn(size, folder, Resume(folder / "broken", own))
    fit(short(own), str(folder / "one"), fingerprint="f", execution=NOW)
    return folder


def test_four_processes_train_what_one_trains_with_four_norm_batches(four: Path) -> None:
    assert largest_difference(four / "short", four / "one") < 1e-5
    losses = [[row["loss"] for row in rows_of(four / name) if "loss" in row] for name in ("short", "one")]
    assert len(losses[0]) == 3 and np.allclose(losses[0], losses[1], rtol=1e-5)


def test_a_group_killed_and_started_again_ends_with_the_same_weights(four: Path) -> None:
    assert [row["step"] for row in rows_of(four / "broken") if "resumed_at" in row] == [KILLED_AT - 1]
    assert are_equal(four / "whole", four / "broken")


def test_a_group_of_three_killed_and_started_again_ends_with_the_same_weights(
    tables: tuple[str, str], tmp_path: Path
) -> None:
    trained(tmp_path, 3, job(tables, 8, max_reject_share=1.0))
    assert are_equal(tmp_path / "whole", tmp_path / "broken")
    assert largest_difference(tmp_path / "short", tmp_path / "one") < 1e-5


def test_a_run_begun_by_four_processes_can_be_finished_by_two(four: Path) -> None:
    assert [row["step"] for row in rows_of(four / "fewer") if "resumed_at" in row] == [KILLED_AT - 1]
    assert largest_difference(four / "whole", four / "fewer") < 1e-5


def test_two_processes_are_bit_equal_to_one_with_two_norm_batches(tables: tuple[str, str], tmp_path: Path) -> None:
    own = job(tables, 12, max_reject_share=1.0)
    spawn(2, tmp_path, SumThenResume(tmp_path / "two", own))
    fit(own, str(tmp_path / "one"), fingerprint="f", execution=NOW)
    assert are_equal(tmp_path / "two", tmp_path / "one")


def test_every_process_says_the_same_at_the_end(four: Path) -> None:
    first, *others = (json.loads((four / f"rank{rank}.json").read_text()) for rank in range(4))
    assert first["counts"] == [10, 40] and all(other == first for other in others)
    assert [r["image_id"] for r in first["metrics"]["rejects"]] == ["images/040.png"]


def test_validation_counts_each_image_once(four: Path) -> None:
    top1 = [[row["validation_top1"] for row in rows_of(four / n) if "validation_top1" in row] for n in ("short", "one")]
    assert top1[0] == top1[1] and len(top1[0]) == 2
