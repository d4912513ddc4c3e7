"""A small workspace that the program made before trainings were a graph (tests/golden, at commit b61df94): it opens,
nothing of it is lost, and only what a repair or a new default changes is made again.

Its networks are zeros with a trained classifier, so that the file is small."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import mini
import pytest
from typer.testing import CliRunner

from ssld_pipeline.cli import app
from ssld_pipeline.config.load import load_config
from ssld_pipeline.models.build import build
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.pipeline import stage_of
from ssld_pipeline.runner.plan import plan_run
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.stages.earlier_models import modernise
from ssld_pipeline.stages.stage import TrainStage

ARCHIVE = Path(__file__).parent / "golden" / "workspace_before_graph.tar.xz"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def world(archive: Path, tmp_path: Path) -> Path:
    shutil.copytree(archive, tmp_path / "world", copy_function=shutil.copy2)
    return tmp_path / "world"


def files_of(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def reasons(world: Path, *overrides: str) -> dict[str, str]:
    """By stage that would run: why."""
    plans = plan_run(survey(load_config(world / "config.yaml", overrides)))
    return {p.stage: "; ".join(r for u in p.units for r in u.reasons) for p in plans if p.changes}


def test_the_readers_open_it(world: Path) -> None:
    config = str(world / "config.yaml")
    mini.bring(load_config(config), until="select")  # addresses of inputs that lie elsewhere now
    for arguments in (
        ["verify", config],
        ["status", config],
        ["sql", config, "SELECT model, input, top1 FROM evaluations"],
        ["report", config],
        ["export", config, "finetune", "--out", str(world / "exported")],
    ):
        told = CliRunner().invoke(app, arguments)
        assert told.exit_code == 0, (arguments, told.output, told.exception)
    assert "finetune" in CliRunner().invoke(app, ["sql", config, "SELECT model FROM evaluations"]).output


def test_plan_names_what_must_be_made_again_and_why(world: Path) -> None:
    found = reasons(world)
    assert set(found) == {"check_teacher", "baseline", "train", "finetune", "evaluate"}, "no labels, no copies"
    assert "is measured as it teaches" in found["check_teacher"]
    assert "the default objective is symmetric_kl now; `loss: js` keeps the former one" in found["train"]
    assert "weight_decay_norm: false now spares normalisation layers only" in found["baseline"]
    assert found["finetune"] == "waits for train"


def test_models_that_no_repair_concerns_stay_valid(world: Path) -> None:
    assert set(reasons(world, "train.loss=js")) == {"check_teacher", "baseline", "evaluate"}
    changed = reasons(world, "train.loss=js", "finetune.lr=0.5")
    assert (
        set(changed) == {"check_teacher", "baseline", "finetune", "evaluate"}
        and "config.training.lr: 0.01 -> 0.5" in changed["finetune"]
    )


def test_each_repair_is_named_where_it_changes_a_model(world: Path) -> None:
    own_size = reasons(world, "train.loss=js", "teacher.image_size=40")
    assert "own image size" in own_size["train"]


def test_nothing_is_deleted(world: Path) -> None:
    before = files_of(world / "workspace")
    reasons(world)
    after = files_of(world / "workspace")
    assert before.items() <= after.items() and not {n for n in after.keys() - before.keys() if n.endswith(".parquet")}


def test_a_run_makes_again_what_the_plan_named_and_then_all_is_up_to_date(world: Path) -> None:
    config = load_config(world / "config.yaml", ("train.loss=js",))
    reports = mini.bring(config)
    assert [name for name, report in reports.items() if report.ran] == ["check_teacher", "baseline", "evaluate"]
    assert reasons(world, "train.loss=js") == {}


def test_a_classifier_that_was_always_lost_is_a_new_head_whatever_it_had(tmp_path: Path) -> None:
    """head: new is how a model of then is kept where head: auto would mean another one now."""
    save_weights(build(ModelSpec("timm:test_resnet", 5)), tmp_path / "five.safetensors")
    student = {"model": "timm:test_resnet", "weights": "five.safetensors"}
    train = {**mini.settings()["train"], "loss": "js"}
    before = {"train": train, "student": {}, "teacher": {}}
    for head, recorded in (("new", "new"), ("auto", None)):
        config = load_config(mini.write_config(tmp_path, student=student, train={**train, "head": head}))
        translated = modernise("train", config, 3, {"config": before}, {})
        assert translated is not None and translated["config"]["training"].get("head") == recorded
        assert stage_of(config, "train", TrainStage).settings(config)["training"].get("head") == recorded


def test_a_model_with_settings_that_are_gone_is_made_again(tmp_path: Path) -> None:
    config = load_config(mini.write_config(tmp_path))
    before = {"train": {**mini.settings()["train"], "cutmix": 0.5}, "student": {}, "teacher": {}}
    assert modernise("train", config, 3, {"config": before}, {}) is None
