"""Fixtures that several files use, and the marks that follow from them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mini
import pytest
from hypothesis import HealthCheck, settings

from ssld_pipeline.config.load import load_config

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


COST_S = {"ray": 25.0, "slow": 3.0}
"""About what a marked test takes; an unmarked one takes 0.1 s."""


def pytest_configure(config: pytest.Config) -> None:
    """Let xdist take the files in the order below: its own, the most tests first, leaves those that start Ray for the
    end, where one process works on and the others wait."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark a test by its fixtures: ray_* starts a Ray cluster; done is a world that its file builds for itself."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if any(name.startswith("ray_") for name in fixtures):
            item.add_marker("ray")
        if "done" in fixtures:
            item.add_marker("slow")
    costs: Counter[Path] = Counter()
    for item in items:
        costs[item.path] += max((COST_S.get(mark.name, 0.1) for mark in item.iter_markers()), default=0.1)
    items.sort(key=lambda item: -costs[item.path])


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The config of a small world in which nothing has run."""
    return mini.write_world(tmp_path / "runs")


@pytest.fixture(scope="session")
def finished_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small world in which every stage has run, for all tests of a process. Read it, or change a copy
    (``mini.copy_world``)."""
    folder = tmp_path_factory.mktemp("finished") / "runs"
    mini.bring(load_config(mini.write_world(folder)))
    return folder
