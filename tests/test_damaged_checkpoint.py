"""A checkpoint or a finished model whose bytes changed is noticed, and the training goes on from what is whole."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ssld_pipeline.training.folder import TrialFolder
from ssld_pipeline.training.metrics_log import MetricsLog


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def save_steps(folder: TrialFolder, *steps: int) -> None:
    for step in steps:
        folder.save_checkpoint("a", step, {"w": torch.full((300,), float(step))}, {"note": "é"})


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.3, 0.6, 0.999])
def test_a_checkpoint_with_a_changed_byte_is_passed_over_and_named(
    tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    folder = TrialFolder(str(tmp_path))
    save_steps(folder, 10, 20)
    newest = max(tmp_path.iterdir())
    flip(newest, int(share * newest.stat().st_size))
    with caplog.at_level(logging.WARNING):
        found = folder.newest_checkpoint("a")
    assert found is not None and found.state["step"] == 10 and found.tensors["w"].tolist() == [10.0] * 300
    assert newest.name in caplog.text


def test_every_changed_byte_of_the_header_is_noticed(tmp_path: Path) -> None:
    folder = TrialFolder(str(tmp_path))
    save_steps(folder, 10)
    path = next(tmp_path.iterdir())
    data = path.read_bytes()
    for place in range(8 + int.from_bytes(data[:8], "little")):
        path.write_bytes(data)
        flip(path, place)
        assert folder.newest_checkpoint("a") is None, place


def test_without_a_whole_checkpoint_training_starts_at_the_beginning(tmp_path: Path) -> None:
    folder = TrialFolder(str(tmp_path))
    save_steps(folder, 10, 20)
    for path in tmp_path.iterdir():
        flip(path, path.stat().st_size // 2)
    assert folder.newest_checkpoint("a") is None


def test_a_checkpoint_of_an_older_program_is_used(tmp_path: Path) -> None:
    folder = TrialFolder(str(tmp_path))
    save_steps(folder, 10)
    data = save({"w": torch.ones(3)}, metadata={"state": json.dumps({"step": 20})})
    folder.write(folder.checkpoints("a")[0].replace("10", "20"), data)
    found = folder.newest_checkpoint("a")
    assert found is not None and found.state["step"] == 20


def finished(tmp_path: Path) -> TrialFolder:
    folder = TrialFolder(str(tmp_path))
    for name in ("student.safetensors", "config.json", "metrics.jsonl"):
        folder.write(name, name.encode() * 20)
    folder.finish("a", {"loss": 0.1})
    return folder


@pytest.mark.parametrize("name", ["student.safetensors", "config.json", "metrics.jsonl", "final.json"])
def test_a_model_whose_files_changed_is_not_done(tmp_path: Path, name: str) -> None:
    folder = finished(tmp_path)
    assert folder.finished("a") == {"loss": 0.1} and folder.finished("b") is None
    flip(tmp_path / name, 30)
    assert folder.finished("a") is None
    (tmp_path / name).unlink()
    assert folder.finished("a") is None


def test_damaged_lines_of_the_metrics_are_left_out(tmp_path: Path) -> None:
    folder = TrialFolder(str(tmp_path))
    folder.write("metrics.jsonl", b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo\xffs": 1.0}\n{"step": 3, "loss')
    assert MetricsLog(folder, 3).rows == [{"step": 1, "loss": 2.0}]
