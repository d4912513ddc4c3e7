"""A unit of work that is a whole input: it is given the time and the threads of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mini
import pytest
import trial

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import WorkerSpec
from ssld_pipeline.stages import check_teacher, evaluate
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.training.data import read_rows


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Of a teacher and three students."""
    mini.write_teacher(tmp_path / "teacher.safetensors")
    changes = {"catalog": {"images_per_part": 5000}, "placement": {"part_deadline_s": 600, "loader_threads": 2}}
    return load_config(mini.write_config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("stage", "num_rows", "deadline_s"),
    [("evaluate", 50_000, 600 * 40), ("evaluate", 10, 600), ("find_copies", 5000, 600), ("label", 20, 600)],
)
def test_a_worker_has_time_for_every_image_and_model(
    config: RunConfig, stage: str, num_rows: int, deadline_s: float
) -> None:
    spec = WorkerSpec(stage, config, mini.CLASSES, {}, 1, "cpu")
    assert spec.deadline_s(Unit("u", {}, {}, num_rows=num_rows)) == deadline_s


def test_accuracies_are_read_for_with_all_threads_of_the_worker(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(predictor: Any, rows: Any, image_size: int, crop_pct: float, num_threads: int) -> dict[str, Any]:
        seen.append(num_threads)
        return {"num_images": len(rows), "top1": 1.0, "top5": 1.0, "rejects": []}

    seen: list[int] = []
    monkeypatch.setattr("ssld_pipeline.training.evaluate.evaluate", measured)
    images = trial.write_table(tmp_path / "v.parquet", trial.write_images(tmp_path / "images", 2))
    rows = read_rows([images], ["labeled"], labelled=True)
    setup = Setup(config, mini.CLASSES, {}, num_threads=7)
    evaluate.stage(config).open(setup)(rows)
    check_teacher.build(setup, rows, tmp_path)
    assert seen == [7, 7]
