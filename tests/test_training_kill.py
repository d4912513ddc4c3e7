"""Training groups on Ray that lose a process, their driver, or a node: the model is the one of a run that lost none."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mini
import pytest
import torch
import trial

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.models.weights import read_tensors
from ssld_pipeline.runner.engine import Engine, Training
from ssld_pipeline.runner.local_engine import LocalEngine
from ssld_pipeline.runner.on_ray.engine import RayEngine
from ssld_pipeline.runner.work import WorkerSpec
from ssld_pipeline.stages.stage import TrainData

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 150
SECTION = {"steps": STEPS, "batch_size": 12, "norm_batch": 3, "lr": 0.01, "warmup_epochs": 0, "image_size": 32}


def config_of(folder: Path, model: str = "timm:test_resnet", **placement: Any) -> RunConfig:
    section = {**SECTION, "validations": 0}
    student = {"model": model}
    placement = {**mini.THREADS, "checkpoint_every_s": 0.5, **placement}
    return load_config(mini.write_config(folder, student=student, train=section, finetune=None, placement=placement))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainData]:
    folder = tmp_path_factory.mktemp("group")
    train, validation = trial.world(folder)
    return folder, TrainData((), (train,), (validation,), (train,), num_labeled=48, num_mined=0)


def fit(engine: Engine, config: RunConfig, data: TrainData, model: Path, at_row: Callable[[Any], None]) -> Any:
    spec = WorkerSpec("baseline", config, trial.CLASSES, {}, 1, "cpu")
    (metrics,) = engine.fit([Training(spec, str(model), "f")], data, at_row)
    assert metrics["steps"] == STEPS
    return read_tensors(model / "student.safetensors")


def trained(world: tuple[Path, TrainData], name: str, at_row: Callable[[Any], None], **placement: Any) -> Any:
    folder, data = world
    (folder / name).mkdir()
    config = config_of(folder / name, **placement)
    engine = RayEngine(config.placement)
    try:
        return fit(engine, config, data, folder / name / "model", at_row)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def undisturbed(world: tuple[Path, TrainData]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = trained(world, "undisturbed", lambda row: None, train_workers=4)
    return found


def of_group() -> list[int]:
    """Ids of the training processes that descend from this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"RayTrainWorker" in path.read_bytes() and os.getpid() in ancestors(int(path.parent.name)):
                found.append(int(path.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return sorted(found)


def ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(status.split("PPid:", 1)[1].split()[0])
        found.append(pid)
    return found


class KillsOnce:
    """Kills a training process when the run is past a step."""

    def __init__(self, step: int) -> None:
        self.step, self.killed = step, False

    def __call__(self, row: dict[str, Any]) -> None:
        if self.killed or row["step"] < self.step or row["step"] == STEPS:
            return
        if own := of_group():
            self.killed = True
            os.kill(own[-1], signal.SIGKILL)


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.timeout(600)
def test_a_group_that_loses_a_process_gives_the_same_model(
    world: tuple[Path, TrainData], undisturbed: dict[str, torch.Tensor]
) -> None:
    kills = KillsOnce(20)
    assert_equal(trained(world, "worker", kills, train_workers=4), undisturbed)
    assert kills.killed


def _drive(folder: Path, data: TrainData) -> None:
    config = config_of(folder, train_workers=4)
    fit(RayEngine(config.placement), config, data, folder / "model", lambda row: None)


@pytest.mark.timeout(600)
def test_a_group_whose_driver_is_killed_is_gone_on_with_by_the_next_run(
    world: tuple[Path, TrainData], undisturbed: dict[str, torch.Tensor]
) -> None:
    folder, data = world[0] / "driver", world[1]
    folder.mkdir()
    driver = multiprocessing.get_context("spawn").Process(target=_drive, args=(folder, data))
    driver.start()
    end = time.monotonic() + 300
    while not list((folder / "model").glob("checkpoint-*")):
        assert time.monotonic() < end and driver.is_alive()
        time.sleep(0.1)
    assert driver.pid is not None
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    assert not (folder / "model" / "student.safetensors").exists()
    config = config_of(folder, train_workers=4)
    engine = RayEngine(config.placement)
    try:
        found = fit(engine, config, data, folder / "model", lambda row: None)
    finally:
        engine.close()
    rows = (folder / "model" / "metrics.jsonl").read_text()
    assert "resumed_at" in rows
    assert_equal(found, undisturbed)


@pytest.mark.timeout(600)
def test_a_group_that_loses_a_node_goes_on_with_the_processes_there_is_room_for(
    world: tuple[Path, TrainData], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of four are left. The model is that of one process. Of a network without batch norm: with statistics of three
    images the last bit of a sum decides what the loss is some fifty steps later."""
    from ray.cluster_utils import Cluster

    folder, data = world[0] / "node", world[1]
    folder.mkdir()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    other = cluster.add_node(num_cpus=2)
    sizes: list[int] = []

    def lose(row: dict[str, Any]) -> None:
        sizes.append(len(of_group()))
        if row["step"] >= 20 and row["step"] < STEPS and len(cluster.list_all_nodes()) == 2:
            cluster.remove_node(other, allow_graceful=False)

    config = config_of(folder, "timm:test_vit", train_workers=[2, 4])
    engine = RayEngine(config.placement, cluster.address)
    try:
        found = fit(engine, config, data, folder / "model", lose)
    finally:
        engine.close()
        cluster.shutdown()
    assert max(sizes) == 4 and "lost one of 4 processes" in caplog.text
    alone = fit(LocalEngine(), config, data, folder / "alone", lambda row: None)
    for name, tensor in alone.items():
        assert torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-5), name
