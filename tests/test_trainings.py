"""What `status` and `inspect` tell of trainings: any number of them, in their order, whatever state they are in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_trainings import NODES, ORDER, begin, config_of, evaluate, evaluation, finish
from test_cli import verb

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.queries.status import workspace_status
from ssld_pipeline.queries.trainings import Training, training, trainings
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.terminal import console

OLD = {
    "train": {"loss": "kl", "temperature": 3.0, "batch_size": 16, "image_size": 48, "teacher": "online"},
    "student": {"model": "timm:test_vit"},
    "teacher": {"model": "timm:test_resnet", "image_size": 32, "crop_pct": 0.9},
}
"""Settings of a model of an earlier version."""


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """first and tuned are made, pair is made and has begun again, small has begun, hard has not; old is not in the
    config any more."""
    found = config_of(tmp_path, NODES)
    finish(found, "first", resumed=True)
    for name in ("tuned", "pair"):
        finish(found, name)
    begin(found, "pair", 20)
    begin(found, "small", 30)
    finish(found, "old", recorded=OLD, figures={"images_per_process": 4})
    evaluate(found, evaluation("first", 0.6), evaluation("tuned", 0.7), evaluation("tuned", 0.75, image_size=64))
    return found


def by_name(config: RunConfig) -> dict[str, Training]:
    return {one.name: one for one in trainings(Workspace(config.workspace), config)}


def test_they_come_in_the_order_of_the_graph_and_forgotten_ones_last(config: RunConfig) -> None:
    assert tuple(by_name(config)) == (*ORDER, "old")


def test_each_state_is_told_with_its_step(config: RunConfig) -> None:
    states = {name: (one.state, one.step) for name, one in by_name(config).items()}
    assert states == {
        "first": ("made", None),
        "tuned": ("made", None),
        "small": ("training", 30),
        "pair": ("made again", 20),
        "hard": ("nothing yet", None),
        "old": ("made", None),
    }


def test_a_replaced_model_and_a_run_given_up_before_are_no_run_under_way(config: RunConfig, tmp_path: Path) -> None:
    begin(config, "hard", 10)
    assert by_name(config)["hard"].state == "training"
    finish(config, "hard")
    assert by_name(config)["hard"].state == "made", "the run that was given up is older"
    changed = config_of(tmp_path, {**NODES, "hard": {**NODES["hard"], "lr": 0.3}})
    finish(changed, "hard")
    assert by_name(changed)["hard"].state == "made", "the folder of the replaced model is there"
    begin(changed, "hard", 20)
    assert (by_name(changed)["hard"].state, by_name(changed)["hard"].step) == ("made again", 20)


def test_a_training_says_what_it_is_made_of(config: RunConfig) -> None:
    found = by_name(config)
    assert found["tuned"].start == "first" and found["tuned"].objective == "kl (temperature 2)"
    assert (found["pair"].teacher, found["pair"].together) == ("tuned", ("small",))
    assert (found["hard"].teacher, found["hard"].objective) == (None, "hard_ce (rows all)")
    assert (found["small"].network, found["small"].data) == ("timm:test_resnet", "manifest")


def test_a_model_of_an_earlier_version_is_described_by_its_record(config: RunConfig) -> None:
    old = by_name(config)["old"]
    assert (old.network, old.objective, old.image_size) == ("timm:test_vit", "kl (temperature 3)", 48)
    assert (old.teacher, old.data, old.is_in_config) == ("teacher", None, False)


def test_a_finished_model_keeps_what_it_was_made_with_when_the_config_changes(
    config: RunConfig, tmp_path: Path
) -> None:
    changed = {**NODES, "tuned": {**NODES["tuned"], "loss": "js", "temperature": 1.0}}
    changed["first"] = {"student": {"model": "timm:test_vit"}}
    found = by_name(config_of(tmp_path, changed))
    assert found["tuned"].objective == "kl (temperature 2)"
    assert found["first"].network == "timm:test_efficientnet"


def test_cost_is_seconds_times_processes_as_far_as_the_record_tells(config: RunConfig) -> None:
    """90 seconds, of two processes; of four where 4 of 16 images a step were in each."""
    found = by_name(config)
    assert (found["first"].process_seconds, found["old"].process_seconds) == (180.0, 360.0)
    assert found["first"].is_resumed and not found["tuned"].is_resumed
    assert found["hard"].process_seconds is None
    finish(config, "hard", figures={"num_processes": 8, "device": "cuda"})
    finish(config, "small", figures={})
    found = by_name(config)
    assert (found["hard"].process_seconds, found["hard"].num_gpus, found["first"].num_gpus) == (720.0, 8, 0)
    assert found["small"].process_seconds is None
    assert found["tuned"].images_per_s == 250.0, "the median of 100, 200, 300 and 400"


def test_status_lists_state_step_and_accuracies(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {row["training"]: row for row in workspace_status(Workspace(config.workspace), config)["trainings"]}
    assert rows["first"]["top1"] == {"protected": pytest.approx(0.6)}
    assert rows["tuned"]["top1"] == {"protected 32 px": pytest.approx(0.7), "protected 64 px": pytest.approx(0.75)}
    assert rows["small"]["top1"] == {} and rows["small"]["step"] == 30
    monkeypatch.setattr(console.out, "_width", 200)
    printed = verb("status", tmp_path / "config.yaml")
    lines = [line.split("│")[1:5] for line in printed.splitlines() if "made again" in line]
    assert [cell.strip() for cell in lines[0]] == ["pair", "made again", "20", "timm:test_efficientnet"]


def test_inspect_shows_settings_metrics_and_evaluations_of_a_training(config: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    found = json.loads(verb("inspect", path, "tuned", "--json"))
    assert found["training"]["start"] == "first" and found["settings"]["config"]["training"]["lr"] == 0.05
    assert [row["step"] for row in found["metrics"]] == [10, 20, 30, 40]
    assert [row["image_size"] for row in found["evaluations"]] == [32, 64]
    printed = verb("inspect", path, "small")
    assert "small: training" in printed and "settings, as recorded" not in printed
    assert "training.temperature" not in printed and "validation_top1" in printed


def test_a_name_that_is_nothing_is_refused_with_what_there_is(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such table.*trainings are first, tuned, small, pair, hard, old"):
        verb("inspect", tmp_path / "config.yaml", "tune")
    with pytest.raises(UserError, match="--class and --image are of tables"):
        verb("inspect", tmp_path / "config.yaml", "tuned", "--class", "0")


def test_the_fit_of_a_teacher_is_a_training_too(tmp_path: Path) -> None:
    teacher = {
        "model": "timm:test_resnet",
        "weights": None,
        "image_size": 32,
        "fit": {"epochs": 1, "batch_size": 8, "image_size": 40},
    }
    config = config_of(tmp_path, {"first": {}}, teacher=teacher)
    fit = training(Workspace(config.workspace), config, "fit_teacher")
    assert (fit.network, fit.data, fit.image_size, fit.evaluated_as) == ("timm:test_resnet", "labeled", 40, "teacher")


def test_the_demo_tells_every_model_and_the_teacher_last(config: RunConfig) -> None:
    from ssld_pipeline.demo.outcome import outcome

    evaluate(config, *(evaluation(name, 0.5) for name in ("teacher", "train", "old", "tuned", "first")), part="again")
    truth = {"copies": {}, "pool": {}, "classes": ["disc"]}
    rows = outcome(truth, Workspace(config.workspace), tuple(config.ordered_nodes()))
    told = [row["figure"] for row in rows if row["figure"].startswith("top-1")]
    names = list(dict.fromkeys(figure.removeprefix("top-1 on protected: ") for figure in told))
    assert names == ["first", "tuned", "old", "student, SSLD", "teacher"]
