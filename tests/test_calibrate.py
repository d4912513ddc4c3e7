"""`ssld plan --calibrate`: counts what is to do, measures it without a trace, and adds up what it says it adds up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import mini
import pytest
from test_cli import verb

from ssld_pipeline.config.load import load_config
from ssld_pipeline.errors import UserError
from ssld_pipeline.pipeline import stages as stages_of
from ssld_pipeline.runner.calibrate.calibration import Calibration, calibrate_run, gpu_rates
from ssld_pipeline.runner.calibrate.estimate import (
    Estimate,
    Machines,
    of_artifact,
    of_parts,
    of_training,
    on_gpus,
    priced,
)
from ssld_pipeline.runner.calibrate.measure import Feed, Speed, TrainSpeed
from ssld_pipeline.runner.calibrate.sample import draw_sample
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.survey import FileDigests, survey
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.terminal.calibration import print_calibration
from ssld_pipeline.terminal.console import out
from ssld_pipeline.training import predictions

HERE = Machines(cpus=2, node_cpus=2, cpu_price=0.5)


def traces(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def by_stage(found: Calibration) -> dict[str, Estimate]:
    return {e.stage: e for e in found.estimates}


@pytest.mark.slow
def test_everything_is_measured_and_nothing_is_written(world: Path) -> None:
    before = traces(world.parent)
    config = load_config(world, ("dedupe.within_pool=true",))
    found = calibrate_run(survey(config), HERE, seconds=3)
    assert traces(world.parent) == before
    stages = by_stage(found)
    assert list(stages) == [s.name for s in stages_of(config) if s.enabled(config)]
    assert found.is_complete and found.hours == pytest.approx(sum(e.hours or 0 for e in found.estimates))
    counts = {name: e.to_do for name, e in stages.items()}
    assert (counts["catalog"], counts["index_protected"], counts["find_copies"], counts["look"]) == (62, 12, 26, 26)
    assert (counts["check_dedupe"], counts["evaluate"], counts["label"]) == (31, 12, 26)
    # 24 labelled and at most 18 mined images in batches of 8, twice; then the labelled ones once
    assert (counts["train"], counts["finetune"], counts["baseline"]) == (10, 3, 13)
    measured = [n for n in counts if n not in ("dedupe", "select", "group_pool")]
    assert all((stages[n].rate or 0) > 0 and stages[n].gigabytes > 0 for n in measured)
    assert all(not stages[n].rate and stages[n].notes for n in ("dedupe", "select", "group_pool"))
    assert found.cost == pytest.approx(found.hours * 2 * 0.5)


@pytest.mark.slow
def test_only_what_is_to_be_done_counts(finished_world: Path, tmp_path: Path) -> None:
    world = mini.copy_world(finished_world, tmp_path) / "config.yaml"
    verb("run", world, "--until", "label")
    mini.write_tar(world.parent / "inputs/pool/pool-9.tar", mini.pool_tar(9))
    found = calibrate_run(survey(load_config(world)), HERE, seconds=2)
    stages = by_stage(found)
    assert "index_protected" not in stages and "check_teacher" not in stages
    assert {n: stages[n].to_do for n in ("catalog", "find_copies", "label")} == {
        "catalog": 13,
        "find_copies": 13,
        "label": 13,
    }
    assert not any("index of" in note for note in stages["find_copies"].notes), "it searched the real one"


@pytest.mark.slow
def test_stored_views_and_a_fitted_teacher_can_be_tried(tmp_path: Path) -> None:
    teacher = {**mini.settings()["teacher"], "fit": {"epochs": 1, "batch_size": 8}}
    stored = {**mini.settings()["train"], "teacher": "stored", "teacher_batch_norm": "eval", "augment": "basic"}
    world = mini.write_world(
        tmp_path / "runs", teacher=teacher, train=stored, label={"num_kept": 2, "views": 2}, baseline=None
    )
    stages = by_stage(calibrate_run(survey(load_config(world)), HERE, seconds=2))
    assert stages["fit_teacher"].to_do == 3 and (stages["train"].rate or 0) > 0
    assert stages["label"].to_do == 26 + 24, "the labelled images are seen in the stored views"


@pytest.mark.slow
def test_what_was_never_labelled_counts_whatever_dedupe_will_say(tmp_path: Path) -> None:
    world = mini.write_world(tmp_path / "runs")
    verb("run", world, "--until", "catalog")
    assert by_stage(calibrate_run(survey(load_config(world)), HERE, seconds=1))["label"].to_do == 26


@pytest.mark.slow
def test_what_is_labelled_already_is_not_measured_again(
    finished_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = mini.write_config(mini.copy_world(finished_world, tmp_path), label={"num_kept": 2, "views": 1})
    verb("run", world, "--until", "label")
    counts: Counter[int] = Counter()
    genuine = predictions.cut_views

    def counted(piece: Any, **how: Any) -> predictions.Block:
        block = genuine(piece, **how)
        counts.update(block.views)
        return block

    monkeypatch.setattr(predictions, "cut_views", counted)
    stages = by_stage(calibrate_run(survey(load_config(world, ("label.views=3",))), HERE, seconds=1))
    assert stages["label"].to_do == 24
    assert counts[1] == 16 + 2, "what warms it up, and the two copies, of which nothing is stored"
    assert counts[2] == counts[3] > counts[1]


@pytest.mark.slow
def test_a_training_is_estimated_with_the_processes_that_the_machines_have_room_for(world: Path) -> None:
    """Its batch of 8 is two norm batches: two of the four GPUs."""
    machines = ["--cpus", "64", "--gpus", "4", "--gpu-rate", "train=20"]
    settings = ["--set", "placement={runner: ray, train_workers: [1, 8]}", "--set", "train.norm_batch=4"]
    words = ("plan", world, "--calibrate", "--json", "--seconds", "1", *machines, *settings)
    stages = {s["stage"]: s for s in json.loads(verb(*words))["stages"]}
    assert stages["train"]["hours"] == pytest.approx(10 * 8 / 20 / 2 / 3600)


@pytest.mark.slow
def test_gpus_that_are_not_here_are_not_invented(world: Path) -> None:
    machines = ["--cpus", "64", "--gpus", "8", "--node-cpus", "32", "--gpu-price", "3"]
    words = ("plan", world, "--calibrate", "--json", "--seconds", "1", *machines, "--gpu-rate", "label=10, train=20")
    found = json.loads(verb(*words))
    stages = {s["stage"]: s for s in found["stages"]}
    assert not found["is_complete"] and stages["finetune"]["hours"] is None and stages["finetune"]["cost"] is None
    assert "--gpu-rate finetune=" in stages["finetune"]["notes"][0]
    assert stages["label"]["hours"] == pytest.approx(26 / 10 / 8 / 3600)
    assert stages["label"]["cost"] == pytest.approx(26 / 10 / 8 / 3600 * 8 * 3.0)
    assert stages["train"]["hours"] == pytest.approx(10 * 8 / 20 / 3600), (
        "on one GPU, as placement.train_workers has it"
    )
    assert any("7 GPUs stand idle" in note for note in stages["train"]["notes"])
    assert found["cluster"] == {
        "cpus": 64,
        "gpus": 8,
        "node_cpus": 32,
        "cpu_price": None,
        "gpu_price": 3.0,
        "gpu_rates": {"label": 10.0, "train": 20.0},
    }


def test_a_tar_that_was_not_scanned_is_weighed(tmp_path: Path) -> None:
    world = mini.write_world(tmp_path / "runs", num_tars=12)
    config = load_config(world)
    found = survey(config)
    state = State(found, Workspace(config.workspace), FileDigests(config.workspace))
    setup = Setup(config, found.classes, {})
    one, again = (draw_sample(state, setup, seed, 0.0) for seed in (3, 3))
    assert one.estimated == ("pool",) and one.rows["pool"].equals(again.rows["pool"])
    assert one.num_images(("pool",)) == pytest.approx(12 * 13, rel=0.2) and one.num_images(("labeled",)) == 24
    assert not draw_sample(state, setup, 4, 0.0).rows["pool"].equals(one.rows["pool"])


def test_a_part_stage_is_bound_by_workers_or_by_cores() -> None:
    speed = Speed(images=100, seconds=2.0, cpu_seconds=2.0, start_s=1.0, bytes_per_image=1000.0)
    free = of_parts("label", 1000, speed, 4, Machines(cpus=8), None, "network")
    assert free.hours == pytest.approx((1 + 20 / 4) / 3600) and free.gigabytes == pytest.approx(1e-3)
    crowded = of_parts("label", 1000, speed, 4, Machines(cpus=2), None, "network")
    assert crowded.hours == pytest.approx((1 + 20 / 2) / 3600)
    cold = of_parts("label", 1000, speed, 4, Machines(cpus=8), Feed(0.5, 0.1, 0.001), "network")
    assert cold.hours == pytest.approx((1 + (20 + 400) / 4) / 3600) and cold.bottleneck == "reading"


def test_a_gpu_waits_for_who_feeds_it() -> None:
    machines = Machines(cpus=4, gpus=2)
    fed = on_gpus("label", 1000, 100.0, 2, machines, Feed(0.001, 0.001, 0.004))
    assert fed.hours == pytest.approx(5 / 3600) and fed.bottleneck == "network"
    hungry = on_gpus("label", 1000, 100.0, 2, machines, Feed(0.001, 0.001, 0.039))
    assert hungry.hours == pytest.approx(10 / 3600) and hungry.bottleneck == "decoding"


def test_training_is_steps_and_validations() -> None:
    speed = TrainSpeed(Speed(100, 2.0, 2.0, start_s=3.0), Speed(100, 1.0, 1.0), batch_size=16)
    found = of_training("train", 40, 32, speed, 2, 500, None)
    assert found.hours == pytest.approx((3 + 40 * 32 / 50 / 2 + 500 / 100 / 2) / 3600) and not found.notes
    assert of_training("train", 40, 64, speed, 2, 0, None).notes


def test_an_artifact_on_a_larger_node_is_scaled_and_says_so() -> None:
    found = of_artifact("index_protected", 100, Speed(10, 1.0, 2.0, start_s=3.0), 2, 8, None, "key points")
    assert found.hours == pytest.approx((3 + 100 / 40) / 3600) and "4 times" in found.notes[0]


def test_no_price_no_cost() -> None:
    estimate = Estimate("label", 1, hours=2.0, gpus=3)
    assert priced(estimate, Machines(cpus=4)).cost is None
    assert priced(estimate, Machines(cpus=4, gpu_price=2.0, cpu_price=0.25)).cost == pytest.approx(2 * (3 * 2 + 4 / 4))


def test_a_mistaken_rate_is_one_message(tmp_path: Path) -> None:
    config = load_config(mini.write_config(tmp_path))
    assert gpu_rates(config, "") == {}
    for text in ("label", "label=fast", "lable=3"):
        with pytest.raises(UserError, match="STAGE=IMAGES_PER_S"):
            gpu_rates(config, text)


def test_what_a_person_sees(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out, "_width", 120)
    measured = Estimate("label", 2_000_000, rate=50.0, workers=4, hours=3.0, gigabytes=1.5, bottleneck="decoding")
    unknown = Estimate("train", 70, "steps", gpus=1, at_least_hours=0.5, notes=("not measured: no GPU here",))
    machines = Machines(cpus=4, gpus=1, cpu_price=0.25)
    found = Calibration(machines, (priced(measured, machines), unknown), {"pool": 100}, "cpu", 61.0, ("a guess",))
    print_calibration(found)
    shown = capsys.readouterr().out
    for text in ("2,000,000", "3.0 h", "decoding", ">30.0 min", "in all at least 3.5 h, cost at least 3.00"):
        assert text in " ".join(shown.split()), shown
    assert "train: not measured: no GPU here" in shown and "assumed: a guess" in shown


def test_prices_without_calibrate_are_a_mistake(world: Path) -> None:
    with pytest.raises(UserError, match="--calibrate"):
        verb("plan", world, "--gpus", "8")
