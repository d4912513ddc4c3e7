"""Several students in one pass: each ends with the weights that it gets alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trial
from safetensors.torch import load_file

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.fit import Execution, fit, fit_together
from ssld_pipeline.training.frozen_teacher import FrozenTeacher
from ssld_pipeline.training.job import TrainJob
from ssld_pipeline.training.trial import Trial

pytestmark = pytest.mark.slow

NOW = Execution(checkpoint_every_s=0)
FINGERPRINTS = ("a", "b")


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[TrainJob]:
    tables = trial.world(tmp_path_factory.mktemp("world"))
    shared = {"teacher": ModelSpec("timm:test_resnet", 3), "norm_batch": 4}
    large = trial.job(*tables, loss="symmetric_kl", lr=0.05, weight_decay=0.01, **shared)
    terms: list[dict[str, Any]] = [{"term": "kl", "temperature": 2.0}, {"term": "hard_ce"}]
    small = trial.job(
        *tables,
        model="timm:test_efficientnet",
        model_args={"drop_rate": 0.3},
        objective=terms,
        lr=0.02,
        warmup_epochs=1,
        validations=3,
        **shared,
    )
    return [replace(large, stage="large"), replace(small, stage="small")]


@pytest.fixture(scope="module")
def alone(jobs: list[TrainJob], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """The weights of each, trained by itself."""
    root = tmp_path_factory.mktemp("alone")
    for job, fingerprint in zip(jobs, FINGERPRINTS, strict=True):
        fit(job, str(root / job.stage), fingerprint=fingerprint)
    return weights(root)


def folders(root: Path) -> list[str]:
    return [str(root / name) for name in ("large", "small")]


def weights(root: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(Path(folder) / "student.safetensors") for folder in folders(root)]


def are_equal(found: list[dict[str, torch.Tensor]], expected: list[dict[str, torch.Tensor]]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(torch.equal(ours[name], own[name]) for ours, own in pairs for name in own)


def test_each_gets_the_weights_that_it_gets_alone_from_one_pass_of_the_teacher(
    jobs: list[TrainJob],
    alone: list[dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    logits = FrozenTeacher.logits

    def counted(self: FrozenTeacher, pixels: torch.Tensor) -> torch.Tensor:
        asked.append(len(pixels))
        return logits(self, pixels)

    monkeypatch.setattr(FrozenTeacher, "logits", counted)
    rows: list[dict[str, Any]] = []
    found = fit_together(jobs, folders(tmp_path), fingerprints=FINGERPRINTS, report=rows.append)
    assert are_equal(weights(tmp_path), alone)
    assert asked == [4] * 24, "12 steps of two norm batches"
    assert [row["step"] for row in rows if row["stage"] == "small" and "validation_top1" in row] == [4, 8, 12]
    assert found[0]["loss"] != found[1]["loss"] and found[0]["steps"] == 12


def test_a_kill_between_two_checkpoints_changes_no_member(
    jobs: list[TrainJob], alone: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    save = Trial.save

    def killed(self: Trial, step: int, tensors: dict[str, torch.Tensor], **state: Any) -> None:
        if self.job.stage == "small" and step == 7:
            raise KilledError
        save(self, step, tensors, **state)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Trial, "save", killed)
        fit_together(jobs, folders(tmp_path), fingerprints=FINGERPRINTS, execution=NOW)
    rows: list[dict[str, Any]] = []
    fit_together(jobs, folders(tmp_path), fingerprints=FINGERPRINTS, execution=NOW, report=rows.append)
    assert [(row["stage"], row["resumed_at"]) for row in rows if "resumed_at" in row] == [("large", 6), ("small", 6)]
    assert are_equal(weights(tmp_path), alone)


def test_a_member_that_is_done_is_not_trained_again(
    jobs: list[TrainJob], alone: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    first = fit(jobs[0], folders(tmp_path)[0], fingerprint="a")
    rows: list[dict[str, Any]] = []
    found = fit_together(jobs, folders(tmp_path), fingerprints=FINGERPRINTS, report=rows.append)
    assert found[0] == first and {row["stage"] for row in rows} == {"small"}
    assert are_equal(weights(tmp_path), alone)


def test_a_member_that_was_further_alone_goes_back_to_the_others_and_can_still_be_resumed(
    jobs: list[TrainJob], alone: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """The other has no checkpoint, so both begin at 0; those of steps 8 and 9 must not outlive newer ones."""

    def kill_at(step: int) -> Any:
        def report(row: dict[str, Any]) -> None:
            if row["step"] == step and "loss" in row:
                raise KilledError

        return report

    with pytest.raises(KilledError):
        fit(jobs[0], folders(tmp_path)[0], fingerprint="a", execution=NOW, report=kill_at(10))
    with pytest.raises(KilledError):
        fit_together(jobs, folders(tmp_path), fingerprints=FINGERPRINTS, execution=NOW, report=kill_at(4))
    rows: list[dict[str, Any]] = []
    fit_together(jobs, folders(tmp_path), fingerprints=FINGERPRINTS, execution=NOW, report=rows.append)
    assert rows[0]["resumed_at"] == 3
    assert are_equal(weights(tmp_path), alone)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 16}, "batch_size is 8 and 16"),
        ({"norm_batch": 2}, "norm_batch is 4 and 2"),
        ({"seed": 1}, "seed is 0 and 1"),
        ({"image_size": 48}, "image_size is 32 and 48"),
        ({"steps": 11}, "steps: large 12, small 11"),
    ],
)
def test_jobs_that_differ_in_what_is_shared_are_refused(
    changes: dict[str, Any], said: str, jobs: list[TrainJob], tmp_path: Path
) -> None:
    other = replace(jobs[1], settings=jobs[1].settings.model_copy(update=changes))
    with pytest.raises(UserError, match=said):
        fit_together([jobs[0], other], folders(tmp_path), fingerprints=FINGERPRINTS)
