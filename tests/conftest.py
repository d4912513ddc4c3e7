"""Fixtures that several files use, and the marks that follow from them."""

from __future__ import annotations

from pathlib import Path

import mini
import pytest
from hypothesis import HealthCheck, settings

from ssld_pipeline.config.load import load_config

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that uses a fixture called ray_* starts a Ray cluster."""
    for item in items:
        if any(name.startswith("ray_") for name in getattr(item, "fixturenames", ())):
            item.add_marker("ray")


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
