"""What the readers tell of a workspace that was made before trainings were a graph (see test_earlier_workspace)."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from reported import Page
from test_cli import verb
from test_earlier_workspace import ARCHIVE


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    return folder / "config.yaml"


def test_evaluations_without_size_and_weights_have_nulls_there(config: Path) -> None:
    query = "SELECT model, image_size, weights FROM evaluations ORDER BY ALL"
    rows = json.loads(verb("sql", config, query, "--json"))
    assert [row["model"] for row in rows] == ["baseline", "finetune", "teacher", "train"]
    assert {(row["image_size"], row["weights"]) for row in rows} == {(None, None)}


def test_verify_finds_no_law_broken(config: Path) -> None:
    laws = {law["law"]: law["num_broken"] for law in json.loads(verb("verify", config, "--json"))}
    assert laws["evaluations"] == laws["evaluations_measured"] == 0


def test_status_and_inspect_describe_its_models(config: Path) -> None:
    trainings = {row["training"]: row for row in json.loads(verb("status", config, "--json"))["trainings"]}
    assert list(trainings) == ["baseline", "train", "finetune"]
    assert {row["state"] for row in trainings.values()} == {"made"}
    assert trainings["finetune"]["start"] == "train" and trainings["train"]["start"] == "start.safetensors"
    assert (trainings["train"]["objective"], trainings["finetune"]["objective"]) == ("js", "symmetric_kl")
    assert trainings["baseline"]["teacher"] is None and trainings["baseline"]["objective"] == "hard_ce (rows all)"
    assert set(trainings["train"]["top1"]) == {"protected"}
    assert "train.loss" in verb("inspect", config, "train")


def test_the_report_compares_its_models(config: Path, tmp_path: Path) -> None:
    page = Page(Path(verb("report", config, "--out", tmp_path / "report.html").strip()).read_text(encoding="utf-8"))
    text = page.squeezed("training")
    assert text.index("baseline") < text.index("finetune")
    assert "Student finetune, top-1 on protected" in page.squeezed("headline")
    assert "over the baseline" in page.squeezed("headline")
    assert " px" not in page.squeezed("evaluation")


@pytest.mark.parametrize(("name", "taught"), [("baseline", False), ("train", True), ("finetune", True)])
def test_its_models_are_exported_as_programs(config: Path, tmp_path: Path, name: str, taught: bool) -> None:
    verb("export", config, name, "--out", tmp_path, "--format", "pt2")
    told = json.loads((tmp_path / "provenance.json").read_text())
    assert (told["teacher"] is not None) == taught and "train" in told["settings"]["config"]
    assert (tmp_path / "model.pt2").stat().st_size > 10_000
