"""Two trainings in one folder, and networks whose tensors share memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trial
from safetensors.torch import load_file
from torch import Tensor, nn

from ssld_pipeline.errors import UserError
from ssld_pipeline.training import network
from ssld_pipeline.training.fit import Execution, fit
from ssld_pipeline.training.folder import TrialFolder
from ssld_pipeline.training.lease import Lease

NOW = Execution(checkpoint_every_s=0)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return trial.world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_the_newest_lease_wins_and_ends_with_the_training(kind: str, tmp_path: Path) -> None:
    folder = TrialFolder(str(tmp_path) if kind == "local" else f"memory://{tmp_path.name}/lease")
    first = Lease(folder)
    assert first.is_own()
    second = Lease(folder)
    assert second.is_own() and not first.is_own()
    second.release()
    assert not second.is_own() and not first.is_own() and folder.read("owner") is None


@pytest.mark.slow
@pytest.mark.parametrize("execution", [NOW, Execution()], ids=["at a checkpoint", "at the end"])
def test_a_training_whose_folder_another_has_taken_over_writes_nothing_more(
    execution: Execution, tables: tuple[str, str], tmp_path: Path
) -> None:
    """The second begins, and ends, while the first is at step 3."""
    job, folder = trial.job(*tables, steps=6), str(tmp_path / "trial")
    written: dict[str, bytes] = {}
    reported: list[int] = []

    def at_step_3(row: dict[str, Any]) -> None:
        reported.append(row["step"])
        if row["step"] == 3 and not written:
            fit(job, folder, fingerprint="f")
            written.update({path.name: path.read_bytes() for path in Path(folder).iterdir()})

    with pytest.raises(UserError, match=r"train: another process has taken over this training in .*trial"):
        fit(job, folder, fingerprint="f", execution=execution, report=at_step_3)
    assert max(reported) == 3
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == written
    assert sorted(written) == ["config.json", "final.json", "metrics.jsonl", "student.safetensors"]


def test_a_job_that_cannot_be_trained_takes_nothing_over(tables: tuple[str, str], tmp_path: Path) -> None:
    first = Lease(TrialFolder(str(tmp_path)))
    with pytest.raises(UserError, match="no strategy"):
        fit(replace(trial.job(*tables), strategy="distl"), str(tmp_path), fingerprint="f")
    assert first.is_own()


class Tied(nn.Module):
    """Two convolutions of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.second.weight = self.first.weight
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.head(self.norm(self.second(self.first(pixels).relu())).mean(dim=(2, 3)))
        return found


@pytest.mark.slow
def test_a_network_of_tied_weights_is_resumed(
    tables: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "build", lambda spec: Tied())
    job = trial.job(*tables, steps=6)

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 4:
            raise KeyboardInterrupt

    fit(job, str(tmp_path / "whole"), fingerprint="f", execution=NOW)
    with pytest.raises(KeyboardInterrupt):
        fit(job, str(tmp_path / "broken"), fingerprint="f", execution=NOW, report=kill)
    rows: list[dict[str, Any]] = []
    fit(job, str(tmp_path / "broken"), fingerprint="f", execution=NOW, report=rows.append)
    assert rows[0]["resumed_at"] == 3
    whole, broken = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], broken[key]) for key in whole)


@pytest.mark.slow
def test_a_checkpoint_of_an_older_program_is_not_gone_on_from(tables: tuple[str, str], tmp_path: Path) -> None:
    TrialFolder(str(tmp_path)).save_checkpoint("f", 4, {"student.x": torch.ones(2)}, {"rejects": [], "loss_sum": 0.0})
    rows: list[dict[str, Any]] = []
    fit(trial.job(tables[0], steps=6), str(tmp_path), fingerprint="f", report=rows.append)
    assert rows[0]["step"] == 1 and rows[-1]["step"] == 6
