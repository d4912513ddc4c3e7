"""What a training says of itself, and when."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
import trial
from torch import Tensor

from ssld_pipeline.errors import UserError
from ssld_pipeline.terms.hard_ce import HardCe
from ssld_pipeline.terms.term import Signals
from ssld_pipeline.training import pace
from ssld_pipeline.training.data import TrainImages, read_rows
from ssld_pipeline.training.fit import Execution, fit
from ssld_pipeline.training.folder import TrialFolder
from ssld_pipeline.training.group import ALONE, Group
from ssld_pipeline.training.losses import Losses
from ssld_pipeline.training.metrics_log import MetricsLog
from ssld_pipeline.training.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(pace, "time", own)
    return own


class Listening(Group):
    asked: ClassVar[list[int]] = []

    def broadcast_from_rank0(self, value: Any) -> Any:
        self.asked.append(1)
        return value


def test_a_row_comes_every_ten_seconds_after_the_first_20_steps(clock: Clock) -> None:
    own = Pace(ALONE, Execution(checkpoint_every_s=25), 0, 100_000, 10_000)
    logged, saved = [], []
    for done in range(1, 1001):
        clock.now += 0.5
        due = own.after(done)
        assert due is not None
        if due.log:
            logged.append(done)
            steps, seconds = own.row(done)
            assert seconds == pytest.approx(steps * 0.5)
        if due.save:
            saved.append(done)
    assert logged[:20] == list(range(1, 21)) and logged[20:23] == [40, 60, 80] and logged[-1] == 1000
    assert saved[:3] == [50, 100, 150]


def test_a_short_run_has_fifty_rows_too(clock: Clock) -> None:
    own = Pace(ALONE, Execution(), 0, 700, 10_000)
    logged = []
    for done in range(1, 701):
        clock.now += 0.01
        if (due := own.after(done)) and due.log:
            own.row(done)
            logged.append(done)
    assert logged == [*range(1, 21), *range(28, 701, 14)]


def test_pauses_count_as_no_steps_time(clock: Clock) -> None:
    own = Pace(ALONE, Execution(), 0, 1000, 10_000)
    clock.now += 2
    with own.pause():
        clock.now += 500
    clock.now += 1
    assert own.row(3) == (3, pytest.approx(3.0))


def test_a_group_asks_about_every_two_seconds(clock: Clock) -> None:
    """10,000 steps of 20 ms at the beginning of a long run; an epoch has 3,000."""
    Listening.asked.clear()
    own = Pace(Listening(size=2), Execution(checkpoint_every_s=30), 0, 1_000_000, 3_000)
    dues = []
    for done in range(1, 10_001):
        clock.now += 0.02
        if due := own.after(done):
            dues.append((done, due))
            if due.log:
                own.row(done)
    assert len(Listening.asked) == len(dues) and 20 + 95 <= len(dues) <= 20 + 110
    assert {done for done, _ in dues} >= {*range(1, 21), 3000, 6000, 9000}
    assert sum(due.save for _, due in dues) == 6 and 20 + 16 <= sum(due.log for _, due in dues) <= 20 + 21


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_rows_are_appended_where_that_can_be_done(kind: str, tmp_path: Path) -> None:
    folder = TrialFolder(str(tmp_path) if kind == "local" else f"memory://{tmp_path.name}/trial")
    folder.write("metrics.jsonl", b'{"step": 1, "loss": 1}\n{"step": 2, "loss": 1}\n{"step": 9, "loss": 1}\n{"st')
    log = MetricsLog(folder, 2)
    log.add(step=3, loss=0.5)
    log.flush()
    before = (tmp_path / "metrics.jsonl").stat().st_ino if kind == "local" else 0
    for step in (4, 5):
        log.add(step=step, loss=0.5)
    log.flush()
    log.flush()
    lines = (folder.read("metrics.jsonl") or b"").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]
    if kind == "local":
        assert (tmp_path / "metrics.jsonl").stat().st_ino == before, "the same file"


class NanForClass2(HardCe):
    """The loss of the images of class 2 is no number."""

    term: Literal["nan"] = "nan"  # type: ignore[assignment]

    def per_row(self, signals: Signals) -> Tensor:
        return super().per_row(signals) * torch.where(signals.class_ids == 2, float("nan"), 1.0)


@pytest.mark.slow
def test_a_loss_that_is_no_number_names_its_step_and_its_images(tmp_path: Path) -> None:
    """One image of 25 has class 2."""
    images = trial.write_images(tmp_path / "images", 12)
    rows = [row for row in images if row["class_id"] < 2] + [images[5]]
    table = trial.write_table(tmp_path / "t.parquet", rows)
    job = replace(trial.job(table, norm_batch=2, steps=30), objective=(NanForClass2(),))
    listing = read_rows([table], ["labeled"], labelled=True)
    places = TrainImages(listing, job.settings).places(0, 30)
    order = [listing["image_id"][int(place.order[place.place])].as_py() for place in places]
    first = order.index(images[5]["image_id"])
    pair = ", ".join(order[first // 2 * 2 : first // 2 * 2 + 2])
    said = rf"not finite at step {first // 8 + 1} of 30 .*in a norm batch of 2 .*: {pair}\."
    with pytest.raises(UserError, match=said):
        fit(job, str(tmp_path / "trial"), fingerprint="f")
    assert not list((tmp_path / "trial").glob("student*"))


def test_the_first_of_all_losses_that_are_not_finite_is_found() -> None:
    losses = Losses(2, 4, ALONE)
    nan = float("nan")
    losses.add(7, torch.tensor([[1.0, 2, 3, 4], [1, 1, 1, 1]]))
    assert losses.first_not_finite() is None
    losses.add(8, torch.tensor([[1.0, 2, 3, 4], [1, 1, nan, float("inf")]]))
    losses.add(9, torch.tensor([[nan, nan, nan, nan], [1, 1, 1, 1]]))
    assert losses.first_not_finite() == (1, 8, 2)


def test_means_are_of_the_steps_since_the_last_row() -> None:
    losses = Losses(1, 2, ALONE)
    losses.restore(0, 5.0, 2)
    losses.add(3, torch.tensor([[1.0, 2.0]]))
    assert losses.sums() == [(8.0, 3)] and losses.take_means() == [8 / 3]
    losses.add(4, torch.tensor([[1.0, 0.5]]))
    assert losses.take_means() == [1.5]


@pytest.mark.slow
def test_rows_say_how_long_the_data_was_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes far longer than the network."""
    import time

    tables = trial.world(tmp_path)
    read = TrainImages._read

    def slow(self: TrainImages, row: int) -> bytes:
        time.sleep(0.02)
        return read(self, row)

    job = trial.job(tables[0], steps=8)
    fit(job, str(tmp_path / "fast"), fingerprint="f")
    monkeypatch.setattr(TrainImages, "_read", slow)
    fit(job, str(tmp_path / "slow"), fingerprint="f")
    waits = [
        [json.loads(line)["data_wait"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("fast", "slow")
    ]
    assert all(0 <= wait <= 1 for wait in waits[0] + waits[1])
    assert min(waits[1][4:]) > 0.5 > min(waits[0][4:])
