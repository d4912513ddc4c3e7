"""Lines of a run without a terminal."""

from __future__ import annotations

import pytest

from ssld_pipeline.runner.planned import StagePlan, UnitPlan
from ssld_pipeline.runner.progress import StageReport
from ssld_pipeline.terminal import console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_line_comes_every_half_minute_with_rate_and_rest(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    view = console.RunView()
    view.started(StagePlan("train", (UnitPlan("train", "run"),)), 1000)
    for second in range(0, 61, 2):
        clock[0] = 1000 + second
        view.reached(400 + 2 * second, "loss 1.25")  # resumed at step 400
    lines = [line for line in capsys.readouterr().out.splitlines() if "/s" in line]
    assert lines == [
        "train            460 of 1,000, 2/s, 0:04:30 left, loss 1.25",
        "train            520 of 1,000, 2/s, 0:04:00 left, loss 1.25",
    ]


def test_warnings_of_a_stage_follow_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.RunView().finished(StageReport("check_teacher", ran=1, figures={"top1": 0.8, "warnings": ["mind this"]}))
    assert capsys.readouterr().out.splitlines()[-1] == "check_teacher    warning: mind this"
