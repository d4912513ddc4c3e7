"""The teacher is measured on images that it was not fitted on, under whatever name they come."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import mini
import pyarrow as pa
import pytest

from ssld_pipeline.config.load import load_config
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.runner.plan import plan_run
from ssld_pipeline.runner.progress import StageReport
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.stages import fit_teacher, hold_out
from ssld_pipeline.stages.stage import Setup, TrainData
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.training.data import left_out_of, read_rows

ONLY = ("catalog", "index_protected", "hold_out", "fit_teacher", "check_teacher")


def fit(**changes: Any) -> dict[str, Any]:
    section = {"steps": 2, "batch_size": 4, "validations": 0, "held_out": 0.25, **changes}
    return {**mini.settings()["teacher"], "fit": section}


def bring(path: Path, *overrides: str) -> dict[str, StageReport]:
    return mini.bring(load_config(path, overrides), only=ONLY)


@pytest.mark.slow
def test_the_teacher_is_fitted_on_no_image_it_is_measured_on(tmp_path: Path) -> None:
    """The teacher's own data holds the labelled images again: one half byte by byte, one recompressed and enlarged."""
    data = {"uri": "inputs/teacher", "format": "folder"}
    path = mini.write_world(tmp_path, teacher=fit(data=data))
    for number, source in enumerate(sorted((tmp_path / "inputs" / "train").rglob("*.jpg"))):
        target = tmp_path / "inputs" / "teacher" / source.parent.name / f"again-{source.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if number % 2:
            shutil.copy(source, target)
        else:
            larger = cv2.resize(cv2.imread(str(source)), (120, 120), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(target), larger, [cv2.IMWRITE_JPEG_QUALITY, 90])
    reports = bring(path)
    config = load_config(path)
    workspace = Workspace(config.workspace)
    record = workspace.artifact("hold_out").record()
    assert record is not None
    held_out, left_out = hold_out.read_held_out(Path(workspace.artifact("hold_out").folder(record.fingerprint)))
    assert reports["check_teacher"].figures["measured_on"] == "held_out"
    assert reports["check_teacher"].figures["num_images"] == len(held_out) == 12
    # Each image stands in both inputs: what is held out of one goes from the other.
    pictures = {name.split("/", 1)[1].replace("again-", "") for name in held_out}
    fitted = fitted_on(config, workspace, left_out)
    assert not {name.split("/", 1)[1].replace("again-", "") for name in fitted} & pictures
    assert reports["fit_teacher"].figures["num_images"] == len(fitted) == 24 - len(pictures)
    assert reports["fit_teacher"].figures["num_left_out"] == len(pictures)
    assert not [made.stage for made in plan_run(survey(config)) if made.stage in ONLY and made.changes]


def fitted_on(config: Any, workspace: Workspace, left_out: list[str]) -> set[str]:
    rows = rows_of(workspace, "SELECT image_id FROM catalog WHERE role = 'teacher'")
    return {row["image_id"] for row in rows} - set(left_out)


@pytest.mark.slow
def test_without_a_share_the_teacher_is_measured_on_what_it_saw_and_says_so(tmp_path: Path) -> None:
    path = mini.write_world(tmp_path, teacher=fit(held_out=0.0))
    reports = bring(path)
    assert "hold_out" not in reports
    assert reports["fit_teacher"].figures["num_images"] == 24
    assert reports["check_teacher"].figures["measured_on"] == "fitted"


def test_a_job_leaves_out_what_the_file_names(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    config = load_config(mini.write_config(tmp_path, teacher=fit()))
    pq.write_table(
        pa.table({"image_id": ["labeled/a", "labeled/b"], "copies": [None, "labeled/a"]}), tmp_path / hold_out.FILE
    )
    data = TrainData((), (), (), (), 0, 0, left_out=("labeled/c",))
    job = fit_teacher.STAGE.job(Setup(config, mini.CLASSES, {"hold_out": tmp_path}), data)
    assert sorted(left_out_of(job)) == ["labeled/a", "labeled/b", "labeled/c"]
    rows = [
        {"image_id": f"labeled/{n}", "role": "labeled", "uri": "u", "offset": 0, "size_bytes": 1, "class_id": 0}
        for n in "abcd"
    ]
    schema = pa.schema(
        [
            ("image_id", pa.string()),
            ("role", pa.string()),
            ("uri", pa.string()),
            ("offset", pa.int64()),
            ("size_bytes", pa.int64()),
            ("class_id", pa.int32()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "rows.parquet")
    kept = read_rows([str(tmp_path / "rows.parquet")], ("labeled",), True, left_out_of(job))
    assert kept["image_id"].to_pylist() == ["labeled/d"]
