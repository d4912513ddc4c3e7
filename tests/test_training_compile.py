"""Compiled networks train what plain ones train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trial
from safetensors.torch import load_file

from ssld_pipeline.errors import UserError
from ssld_pipeline.models import compiler
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.training.fit import Execution, fit
from ssld_pipeline.training.folder import TrialFolder


class KilledError(Exception):
    pass


def kill(row: dict[str, object]) -> None:
    if row["step"] == 2 and "loss" in row:
        raise KilledError


@pytest.mark.slow
def test_a_compiled_run_gives_the_weights_of_a_plain_one_and_resumes_it(tmp_path: Path) -> None:
    """Dropout, several norm batches, a validation in between; a compiled run goes on from a plain checkpoint."""
    job = trial.job(
        *trial.world(tmp_path),
        model="timm:test_efficientnet",
        model_args={"drop_rate": 0.3},
        teacher=ModelSpec("timm:test_resnet", 3),
        loss="symmetric_kl",
        lr=0.01,
        norm_batch=4,
        steps=3,
        validations=3,
    )
    fit(job, str(tmp_path / "plain"), fingerprint="f")
    with pytest.raises(KilledError):
        fit(job, str(tmp_path / "compiled"), fingerprint="f", execution=Execution(checkpoint_every_s=0), report=kill)
    keys = TrialFolder(str(tmp_path / "compiled")).newest_checkpoint("f")
    fit(job, str(tmp_path / "compiled"), fingerprint="f", execution=Execution(compile=True))
    with pytest.raises(KilledError):
        fit(
            job,
            str(tmp_path / "keys"),
            fingerprint="f",
            execution=Execution(compile=True, checkpoint_every_s=0),
            report=kill,
        )
    compiled_keys = TrialFolder(str(tmp_path / "keys")).newest_checkpoint("f")
    assert keys is not None and compiled_keys is not None and keys.tensors.keys() == compiled_keys.tensors.keys()
    assert not any("_orig_mod" in key for key in keys.tensors)
    plain, found = (load_file(tmp_path / name / "student.safetensors") for name in ("plain", "compiled"))
    assert plain.keys() == found.keys()
    assert all(torch.allclose(plain[key].float(), found[key].float(), atol=1e-5) for key in plain)


def test_without_a_compiler_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"placement\.train_compile needs a C\+\+ compiler on every machine that trains"
    ):
        compiler.compiled(torch.nn.Linear(2, 2))
