from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mini
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The config of a small world, run by nobody yet."""
    return mini.write_world(tmp_path / "runs")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One cluster for all tests that need one; its address."""
    import ray

    context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield context.address_info["address"]
    ray.shutdown()
