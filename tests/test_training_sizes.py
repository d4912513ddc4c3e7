"""Student and teacher see one crop, each in its own size."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
import trial
from torch import Tensor

from ssld_pipeline.models.build import build
from ssld_pipeline.models.preprocessing import Normalise, normalise
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.terms.logits_mse import LogitsMse
from ssld_pipeline.terms.term import Signals
from ssld_pipeline.training.data import TrainImages, read_rows
from ssld_pipeline.training.fit import fit

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)


class Overheard(LogitsMse):
    """Keeps what the teacher says."""

    term: Literal["overheard"] = "overheard"  # type: ignore[assignment]
    said: ClassVar[list[Tensor]] = []

    def per_row(self, signals: Signals) -> Tensor:
        assert signals.teacher is not None
        self.said.append(signals.teacher)
        return super().per_row(signals)


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_a_teacher_says_what_it_says_at_its_own_size(batch_norm: str, tmp_path: Path) -> None:
    """A vision transformer of 32 px refuses any other size."""
    tables = trial.world(tmp_path)
    torch.manual_seed(1)
    network = build(ModelSpec("timm:test_resnet", 3))
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    spec = ModelSpec("timm:test_resnet", 3, weights=str(tmp_path / "teacher.pt"), mean=MEAN, std=STD)
    job = trial.job(
        tables[0],
        model="timm:test_vit",
        model_args={"img_size": 32},
        teacher=spec,
        teacher_image_size=64,
        teacher_batch_norm=batch_norm,
        objective=[Overheard()],
        norm_batch=4,
        steps=2,
    )
    Overheard.said.clear()
    fit(job, str(tmp_path / "trial"), fingerprint="f")
    images = TrainImages(read_rows([tables[0]], ["labeled"], labelled=False), job.settings, image_size=64)
    parts = [batch.views[start : start + 4] for batch in images.batches(0, 2, 1) for start in (0, 4)]
    assert len(Overheard.said) == 4
    for views, said in zip(parts, Overheard.said, strict=True):
        pixels = (torch.from_numpy(views).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
            STD
        ).view(3, 1, 1)
        with torch.no_grad():
            expected = network.train(batch_norm == "train")(pixels)
        assert views.shape == (4, 64, 64, 3) and torch.allclose(said, expected, atol=1e-5)


def test_images_of_the_right_size_are_not_touched_and_others_keep_their_mean() -> None:
    views = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
    assert torch.equal(Normalise(MEAN, STD, 64)(views), normalise(views, MEAN, STD))
    halved = Normalise(MEAN, STD, 32)(views)
    assert halved.shape == (2, 3, 32, 32) and halved.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(halved.mean(dim=(2, 3)), normalise(views, MEAN, STD).mean(dim=(2, 3)), atol=0.02)


def test_what_shrinks_is_not_aliased() -> None:
    """Stripes of one pixel become their mean; without antialias every second column would be all that is seen."""
    stripes = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    found = Normalise((0.0,) * 3, (1.0,) * 3, 16)(stripes)
    assert float((found - 0.5).abs().max()) < 0.1
