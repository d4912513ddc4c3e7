"""The loop serves strategies that it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trial
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.divergences import kl
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.fit import fit
from ssld_pipeline.training.folder import TrialFolder
from ssld_pipeline.training.group import Group
from ssld_pipeline.training.network import new_student
from ssld_pipeline.training.strategies.registry import STRATEGIES, strategy_named
from ssld_pipeline.training.strategies.strategy import Member
from ssld_pipeline.training.views_on_device import Views


class Online:
    """A teacher that learns from classes first, then a student from the teacher: two networks of one job."""

    def __init__(self, members: Sequence[Member], group: Group, execution: Execution) -> None:
        ((job, lr_of),) = ((member.job, member.lr_of) for member in members)
        self.students = [new_student(job.student, job.settings, lr_of, group, execution)]
        spec = ModelSpec("timm:test_efficientnet", 3, {"drop_rate": 0.2})
        self.teacher = new_student(spec, job.settings, lambda step: 0.05, group, execution)

    def step(self, number: int, views: Views) -> Tensor:
        (student,) = self.students
        self.teacher.begin(number)
        told = self.teacher.logits(number, views)
        self.teacher.backward(cross_entropy(told, views.class_ids), last=True)
        self.teacher.update()
        student.begin(number)
        loss = kl(student.logits(number, views), told.detach())
        student.backward(loss, last=True)
        student.update()
        return loss.detach().view(1, 1)

    def tensors(self, member: int) -> dict[str, Tensor]:
        own = {"student": self.students[0], "teacher": self.teacher}
        return {f"{name}/{key}": value for name, network in own.items() for key, value in network.tensors().items()}

    def restore(self, member: int, tensors: dict[str, Tensor]) -> None:
        for name, network in (("student", self.students[0]), ("teacher", self.teacher)):
            prefix = f"{name}/"
            network.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})


class KilledError(Exception):
    pass


def kill_at_9(row: dict[str, Any]) -> None:
    if row["step"] == 9:
        raise KilledError


@pytest.mark.slow
def test_a_strategy_whose_teacher_learns_too_is_checkpointed_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "online", Online)
    job = replace(trial.job(*trial.world(tmp_path), steps=30, lr=0.1), strategy="online")
    now = Execution(checkpoint_every_s=0)
    metrics = fit(job, str(tmp_path / "whole"), fingerprint="f", execution=now)
    with pytest.raises(KilledError):
        fit(job, str(tmp_path / "broken"), fingerprint="f", execution=now, report=kill_at_9)
    made = TrialFolder(str(tmp_path / "broken")).newest_checkpoint("f")
    assert made is not None and {key.partition("/")[0] for key in made.tensors} == {"student", "teacher"}
    fit(job, str(tmp_path / "broken"), fingerprint="f", execution=now)
    whole, broken = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    assert metrics["validation_top1"] > 0.7, "the student has learnt what the teacher learnt"


def test_the_nearest_name_of_a_strategy_is_said() -> None:
    assert strategy_named("distil") is STRATEGIES["distil"]
    with pytest.raises(UserError, match=r"no strategy is called 'distill'; did you mean 'distil'\?"):
        strategy_named("distill")
