"""Two processes over gloo, killed and started again, against one process that was left alone.

The network has no batch norm, so the mean of two gradients over half a batch is the gradient over the batch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import trial
from safetensors.torch import load_file

from ssld_pipeline.training.fit import Execution, fit
from ssld_pipeline.training.group import Group

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {"model": "timm:test_vit", "model_args": {"img_size": 32}, "steps": 30, "batch_size": 6}


class KilledError(Exception):
    pass


def kill_at_25(row: dict[str, Any]) -> None:
    if row["step"] == 25:
        raise KilledError


def train_in_group(rank: int, folder: str, tables: tuple[str, str], attempt: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous-{attempt}", rank=rank, world_size=2)
    report = kill_at_25 if attempt == 0 else None
    job, execution = trial.job(*tables, **SETTINGS), Execution(loader_threads=1, checkpoint_every_s=0)
    metrics = fit(job, f"{folder}/trial", fingerprint="f", execution=execution, report=report)
    found = {"metrics": metrics, "counts": Group.current("cpu").sum_counts(np.array([rank + 1, 10])).tolist()}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``two/trial`` by two processes at the second attempt, ``one`` by one process; one image of 24 is bad."""
    root = tmp_path_factory.mktemp("group")
    rows = trial.write_images(root / "images", 8)
    Path(rows[5]["uri"]).unlink()
    validation = trial.write_table(root / "v.parquet", trial.write_images(root / "v", 3, 1000), "protected")
    tables = trial.write_table(root / "train.parquet", rows), validation
    (root / "two").mkdir()
    with pytest.raises(mp.ProcessRaisedException, match="KilledError"):
        mp.spawn(train_in_group, (str(root / "two"), tables, 0), nprocs=2)
    assert list((root / "two" / "trial").glob("checkpoint-*"))
    mp.spawn(train_in_group, (str(root / "two"), tables, 1), nprocs=2)
    fit(trial.job(*tables, **SETTINGS), str(root / "one"), fingerprint="f")
    return root


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_what_one_trains(folder: Path) -> None:
    two, one = (rows_of(folder / name) for name in ("two/trial", "one"))
    assert [row["resumed_at"] for row in two if "resumed_at" in row] == [20]
    losses = [[(row["step"], row["loss"]) for row in rows if "loss" in row] for rows in (two, one)]
    assert [step for step, _ in losses[0]] == list(range(1, 31))
    assert np.allclose(losses[0], losses[1], rtol=1e-3)
    weights = [load_file(folder / name / "student.safetensors") for name in ("two/trial", "one")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[1])


def test_every_process_says_the_same_at_the_end(folder: Path) -> None:
    first, second = (json.loads((folder / "two" / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["counts"] == [3, 20]
    assert [r["image_id"] for r in first["metrics"]["rejects"]] == ["images/005.png"]


def test_validation_counts_each_image_once(folder: Path) -> None:
    two, one = (rows_of(folder / name) for name in ("two/trial", "one"))
    top1 = [[row["validation_top1"] for row in rows if "validation_top1" in row] for rows in (two, one)]
    assert top1[0] == top1[1] and len(top1[0]) == 2
