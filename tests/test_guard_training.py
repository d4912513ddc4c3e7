"""No network is trained on a copy of a protected image, whichever input it is in."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import mini
import pytest

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.queries.status import workspace_status
from ssld_pipeline.runner.plan import plan_run
from ssld_pipeline.runner.progress import StageReport
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.store.fingerprints import Fingerprint
from ssld_pipeline.store.tables import TableStore
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.verify.laws import verify_laws

pytestmark = pytest.mark.slow


def plant(folder: Path, count: int) -> list[str]:
    """Recompressed, enlarged copies of protected images among the labelled ones; their image_ids."""
    planted = []
    for number, path in enumerate(sorted((folder / "inputs" / "validation").rglob("*.jpg"))[:count]):
        target = folder / "inputs" / "train" / path.parent.name / f"leak-{number}.jpg"
        image = cv2.resize(cv2.imread(str(path)), (110, 110), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, 85])
        planted.append(f"labeled/{path.parent.name}/leak-{number}.jpg")
    return sorted(planted)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, list[str], dict[str, StageReport]]:
    """A finished run in whose labelled folder three protected images stand again."""
    folder = tmp_path_factory.mktemp("leaky")
    path = mini.write_world(folder)
    planted = plant(folder, 3)
    config = load_config(path)
    return config, planted, mini.bring(config)


def ids(config: RunConfig, query: str) -> list[str]:
    return [row["image_id"] for row in rows_of(Workspace(config.workspace), query)]


def test_copies_among_labelled_images_are_left_out_of_every_training(leaky: Any) -> None:
    config, planted, reports = leaky
    removed = "SELECT DISTINCT image_id FROM duplicates WHERE role = 'labeled' AND is_duplicate ORDER BY 1"
    assert ids(config, removed) == planted
    assert not set(ids(config, "SELECT image_id FROM manifest")) & set(planted)
    for stage in ("train", "finetune", "baseline"):
        if stage in reports:
            assert reports[stage].figures["num_left_out"] == 3
    labelled = len(ids(config, "SELECT image_id FROM catalog WHERE role = 'labeled'"))
    assert reports["finetune"].figures["num_images"] == labelled - 3


def test_they_are_counted_in_run_status_and_laws(leaky: Any) -> None:
    config, planted, reports = leaky
    assert reports["dedupe"].figures["labeled copy"] == 3
    workspace = Workspace(config.workspace)
    counted = {(v["role"], v["verdict"]): v["images"] for v in workspace_status(workspace, config)["verdicts"]}
    assert counted["labeled", "copy"] == 3 and counted["pool", "copy"] == 2
    assert not [v.law.name for v in verify_laws(workspace, config) if v.num_broken]
    rows = rows_of(workspace, "SELECT image_id, role FROM pairs WHERE role <> 'pool'")
    assert {row["image_id"] for row in rows} >= set(planted)


def test_a_run_again_does_nothing(leaky: Any) -> None:
    config, _, _ = leaky
    assert [made.stage for made in plan_run(survey(config)) if made.changes] == []


def test_an_image_that_is_allowed_is_trained_on(leaky: Any, tmp_path: Path) -> None:
    config, planted, _ = leaky
    shutil.copytree(Path(config.workspace).parent, tmp_path / "runs")
    (tmp_path / "runs" / "allow.txt").write_text(planted[0] + "\n")
    allowing = load_config(tmp_path / "runs" / "config.yaml", ("dedupe.allow=allow.txt",))
    foreseen = {made.stage for made in plan_run(survey(allowing)) if made.changes}
    assert {"dedupe", "select", "finetune"} <= foreseen and "guard_training" not in foreseen
    mini.bring(allowing)
    assert set(ids(allowing, "SELECT image_id FROM manifest")) & set(planted) == {planted[0]}
    assert not [v.law.name for v in verify_laws(Workspace(allowing.workspace), allowing) if v.num_broken]


@pytest.mark.parametrize(("setting", "count", "says"), [("refuse", 1, "1 of 25"), ("leave_out", 11, "11 of 35")])
def test_too_many_copies_stop_the_run_before_the_pool_is_read(
    tmp_path: Path, setting: str, count: int, says: str
) -> None:
    path = mini.write_world(tmp_path)
    plant(tmp_path, count)
    config = load_config(path, (f"dedupe.trained_on={setting}",))
    with pytest.raises(
        UserError, match=f"guard_training: {says} images of the input 'labeled' are copies of protected"
    ):
        mini.bring(config)
    assert Workspace(config.workspace).artifact("train").record() is None
    assert not ids(config, "SELECT image_id FROM pairs WHERE role = 'pool'")
    with pytest.raises(UserError, match=says):
        mini.bring(config, only=("baseline",) if config.baseline else ("train",))


def test_reported_copies_are_trained_on(tmp_path: Path) -> None:
    path = mini.write_world(tmp_path)
    planted = plant(tmp_path, 12)
    config = load_config(path, ("dedupe.trained_on=report_only",))
    reports = mini.bring(config, until="select")
    assert reports["dedupe"].figures["labeled reported"] == 12
    assert set(planted) <= set(ids(config, "SELECT image_id FROM manifest"))
    assert not [v.law.name for v in verify_laws(Workspace(config.workspace), config) if v.num_broken]


def test_the_protected_folder_as_labelled_input_is_refused(tmp_path: Path) -> None:
    path = mini.write_world(tmp_path)
    with pytest.raises(UserError, match="'labeled' and 'protected' are the same folder"):
        load_config(path, ("inputs.labeled.uri=inputs/../inputs/validation", "inputs.protected.uri=inputs/validation"))


def test_what_the_teacher_is_fitted_on_is_guarded_too(tmp_path: Path) -> None:
    path = mini.write_world(tmp_path)
    shutil.copytree(tmp_path / "inputs" / "train", tmp_path / "inputs" / "teacher")
    shutil.copy(
        next((tmp_path / "inputs" / "validation").rglob("*.jpg")), tmp_path / "inputs" / "teacher" / "disc" / "x.jpg"
    )
    data = "{uri: inputs/teacher, format: folder}"
    fit = f"teacher.fit={{data: {data}, steps: 2, batch_size: 4, validations: 0, held_out: 0}}"
    config = load_config(path, (fit,))
    reports = mini.bring(config, only=("catalog", "index_protected", "fit_teacher"))
    assert "guard_training" in reports and "check_dedupe" in reports and "find_copies" not in reports
    assert reports["fit_teacher"].figures["num_left_out"] == 1
    assert reports["fit_teacher"].figures["num_images"] == 24


def test_copies_that_were_taken_out_no_longer_count(tmp_path: Path) -> None:
    """The refusal says to take them out; then the next run must not count them as missing images."""
    path = mini.write_world(tmp_path)
    planted = plant(tmp_path, 12)
    with pytest.raises(UserError, match="guard_training: 12 of 36"):
        mini.bring(load_config(path))
    for image_id in planted:
        (tmp_path / "inputs" / "train" / image_id.split("/", 1)[1]).unlink()
    for source in sorted((tmp_path / "inputs" / "train").rglob("*.jpg"))[:14]:
        source.unlink()  # fewer remain than there were copies
    reports = mini.bring(load_config(path))
    assert reports["finetune"].figures["num_left_out"] == 0 and reports["finetune"].figures["num_images"] == 10


def test_a_workspace_without_guards_leaves_nothing_out(leaky: Any, tmp_path: Path) -> None:
    config, planted, _ = leaky
    shutil.copytree(Path(config.workspace).parent, tmp_path / "runs")
    reporting = load_config(tmp_path / "runs" / "config.yaml", ("dedupe.report_only=[protected]",))
    mini.bring(reporting, until="select")
    assert set(planted) <= set(ids(reporting, "SELECT image_id FROM manifest"))
    assert not [v.law.name for v in verify_laws(Workspace(reporting.workspace), reporting) if v.num_broken]


def test_denied_images_that_are_not_there_change_nothing(leaky: Any, tmp_path: Path) -> None:
    config, _, _ = leaky
    shutil.copytree(Path(config.workspace).parent, tmp_path / "runs")
    (tmp_path / "runs" / "deny.txt").write_text("labeled/disc/typo.jpg\n")
    denying = load_config(tmp_path / "runs" / "config.yaml", ("dedupe.deny=deny.txt",))
    reports = mini.bring(denying)
    assert [name for name in ("label", "select", "baseline", "train", "finetune") if reports[name].ran] == []


def test_parts_without_the_column_role_stand_beside_new_ones(tmp_path: Path) -> None:
    """A workspace made before: its parts of pairs lack the column, and those of a new tar have it."""
    path = mini.write_world(tmp_path)
    config = load_config(path)
    mini.bring(config, until="find_copies")
    table = Workspace(config.workspace).tables["pairs"]
    old = [part for part in table.parts().values() if part.name.startswith("pool/")]
    before = replace(table.contract, columns=tuple(c for c in table.contract.columns if c.name != "role"))
    added = []
    for part in old:
        settings = table.settings_of(part)
        settings = {**settings, "config": {k: v for k, v in settings["config"].items() if k != "has_role"}}
        fingerprint = Fingerprint.of(settings, table.inputs_of(part))
        writer = TableStore(config.workspace, before)
        added.append(
            writer.write(table.read(part), {"part": part.name}, fingerprint, settings, {}, table.inputs_of(part))
        )
    table.commit(added, old)
    mini.write_tar(tmp_path / "inputs" / "pool" / "pool-2.tar", mini.pool_tar(2))
    reports = mini.bring(load_config(path), until="dedupe")
    assert reports["find_copies"].reused == len(old) and reports["find_copies"].ran == 3
    assert len(ids(config, "SELECT DISTINCT image_id FROM duplicates WHERE is_duplicate AND role = 'pool'")) == 3
