"""A student that learns from stored soft labels replays the views that they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import trial
from safetensors.torch import load_file

from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.fit import fit
from ssld_pipeline.training.job import StoredTeacher
from ssld_pipeline.training.recipe import Recipe
from ssld_pipeline.training.views import REPLAY_COLUMNS, draw

pytestmark = pytest.mark.slow
RECIPE = Recipe(image_size=40, crop_pct=0.875, min_crop_area=0.5, jitter=0.2)


class KilledError(Exception):
    pass


def kill_at_5(row: dict[str, Any]) -> None:
    if row["step"] == 5:
        raise KilledError


def labels_of(images: str, path: Path) -> StoredTeacher:
    """Two views of each image, .9 for its class."""
    rows = []
    for row in pq.read_table(images).to_pylist():
        for view in (1, 2):
            replay = draw(row["image_id"], view, 42, 36, RECIPE)
            label = {"class_ids": [row["class_id"], (row["class_id"] + 1) % 3], "probs": [0.9, 0.06]}
            replayed = dict(zip(REPLAY_COLUMNS, map(float, replay), strict=True))
            rows.append({"image_id": row["image_id"], "view": view, "tail_prob": 0.04, **label, **replayed})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return StoredTeacher((str(path),), num_views=2, num_kept=2, recipe=RECIPE)


def test_a_student_learns_from_stored_labels_in_another_size_and_resumes(tmp_path: Path) -> None:
    """Views were labelled at 40 px, are seen at 32 px, in two norm batches that pass at once."""
    tables = trial.world(tmp_path)
    stored = labels_of(tables[0], tmp_path / "labels.parquet")
    job = trial.job(
        *tables, teacher=stored, loss="symmetric_kl", mismatched_views="accept", steps=40, norm_batch=4, lr=0.1
    )
    now = Execution(checkpoint_every_s=0, norm_batches_per_pass=2)
    assert fit(job, str(tmp_path / "whole"), fingerprint="f", execution=now)["validation_top1"] > 0.7
    with pytest.raises(KilledError):
        fit(job, str(tmp_path / "broken"), fingerprint="f", execution=now, report=kill_at_5)
    fit(job, str(tmp_path / "broken"), fingerprint="f", execution=now)
    whole, broken = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
