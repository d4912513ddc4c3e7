from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
import torch

from ssld_pipeline.training.folder import TrialFolder
from ssld_pipeline.training.metrics_log import MetricsLog


@pytest.fixture(params=["local", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "trial") if request.param == "local" else f"memory://{uuid.uuid4().hex}/trial"


def save(folder: TrialFolder, fingerprint: str, *steps: int) -> None:
    for step in steps:
        folder.save_checkpoint(fingerprint, step, {"w": torch.full((3,), float(step))}, {"note": "é"})


def test_the_newest_checkpoint_comes_back_with_its_tensors_and_state(uri: str) -> None:
    save(TrialFolder(uri), "a/b", 5, 10, 1000)
    found = TrialFolder(uri).newest_checkpoint("a/b")
    assert found is not None
    assert found.state == {"step": 1000, "note": "é"} and found.tensors["w"].tolist() == [1000.0] * 3


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    save(TrialFolder(str(tmp_path)), "a/b", 1, 2, 3, 4)
    assert len(list(tmp_path.iterdir())) == 2


def test_another_computations_checkpoint_is_not_gone_on_from_nor_counted(uri: str) -> None:
    folder = TrialFolder(uri)
    save(folder, "other", 500, 600)
    assert folder.newest_checkpoint("mine") is None
    save(folder, "mine", 1, 2, 3)
    found = folder.newest_checkpoint("mine")
    assert found is not None and found.state["step"] == 3


@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path, keep: int) -> None:
    folder = TrialFolder(str(tmp_path))
    save(folder, "a", 10, 20)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:keep])
    found = folder.newest_checkpoint("a")
    assert found is not None and found.state["step"] == 10


def test_nothing_is_left_when_checkpoints_are_removed(tmp_path: Path) -> None:
    folder = TrialFolder(str(tmp_path))
    save(folder, "a", 1, 2)
    (tmp_path / ".checkpoint-abc.safetensors.1234").write_bytes(b"half of one")
    folder.write("metrics.jsonl", b"")
    folder.remove_checkpoints()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_metrics_beyond_the_checkpoint_are_forgotten(uri: str) -> None:
    log = MetricsLog(TrialFolder(uri), 0)
    for step in (1, 2, 3, 4):
        log.add(step=step, loss=1 / step)
    log.flush()
    resumed = MetricsLog(TrialFolder(uri), 2)
    resumed.add(step=3, loss=9.0)
    resumed.flush()
    lines = (TrialFolder(uri).read("metrics.jsonl") or b"").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 9.0},
    ]
