"""Training on Ray: what one of several processes meets ends them all, and what the cluster lacks is said."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mini
import pytest
import trial

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.runner.engine import Training
from ssld_pipeline.runner.on_ray.engine import RayEngine
from ssld_pipeline.runner.on_ray.resources import ClusterResources, ResourceRequest
from ssld_pipeline.runner.work import WorkerSpec
from ssld_pipeline.stages.stage import TrainData

pytestmark = pytest.mark.ray

_NOT_ON_RANK_1 = """
import os, sys
def refuse(event, arguments):
    if event == "open" and str(arguments[0]).endswith("/student.safetensors") and os.environ.get("RANK") == "1":
        with open({log!r}, "a") as log:
            print("refused", file=log)
        raise FileNotFoundError(2, "No such file or directory")
sys.addaudithook(refuse)
"""


def config_of(folder: Path, **placement: Any) -> RunConfig:
    """Of a baseline of a few steps, that starts from a file of weights."""
    mini.write_teacher(folder / "student.safetensors")
    section = {"steps": 4, "batch_size": 8, "norm_batch": 4, "lr": 0.05, "warmup_epochs": 0, "image_size": 32}
    student = {"model": "timm:test_resnet", "weights": "student.safetensors"}
    return load_config(
        mini.write_config(folder, student=student, train=section, placement={**mini.THREADS, **placement})
    )


@contextmanager
def cluster_of(config: RunConfig) -> Iterator[RayEngine]:
    cluster = RayEngine(config.placement)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Trains a baseline on a cluster of this machine's own, with these settings of ``placement``."""
    train, validation = trial.world(tmp_path)
    data = TrainData((), (train,), (validation,), (train,), num_labeled=48, num_mined=0)

    def trained(**placement: Any) -> dict[str, Any]:
        config = config_of(tmp_path, **placement)
        spec = WorkerSpec("baseline", config, trial.CLASSES, {}, 1, "cpu")
        with cluster_of(config) as cluster:
            (found,) = cluster.fit([Training(spec, str(tmp_path / "model"), "f")], data, lambda row: None)
            return found

    return trained


@pytest.mark.timeout(400)
def test_a_mistake_that_one_process_meets_ends_the_group_at_once(
    train: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the weights' folder is not mounted on one of the nodes."""
    log = tmp_path / "refused"
    (tmp_path / "sitecustomize.py").write_text(_NOT_ON_RANK_1.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(UserError, match=r"^weights .*student\.safetensors cannot be read: No such file or directory$"):
        train(train_workers=2)
    assert log.read_text().splitlines() == ["refused"], "nothing is tried again that cannot succeed"
    assert not list((tmp_path / "model").rglob("*.json"))


@pytest.mark.timeout(300)
def test_more_training_processes_than_gpus_are_refused_at_once(
    train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
    needs, has = r"2 GPUs and 2 CPUs at once, 1 GPU and 1 CPU on one node each", r"the cluster has 1 GPU and 2 CPUs"
    with pytest.raises(UserError, match=rf"baseline \(placement.train_workers: 2\) needs {needs}; {has}.*lower"):
        train(train_workers=2)


@pytest.mark.timeout(300)
def test_gpus_that_the_config_insists_on_are_missed_at_once(train: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(
        UserError, match=r"placement.use_gpu needs 1 GPU at once; the cluster has 0 GPUs and .*or leave"
    ):
        train(use_gpu=True)


@pytest.mark.timeout(300)
def test_room_is_waited_for_aloud_and_for_a_stated_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import ray

    with cluster_of(config_of(tmp_path)):
        cpus = int(ray.cluster_resources()["CPU"])
        all_cpus, more = (
            ResourceRequest("an index", 1, cpus, 0),
            ResourceRequest("a training run", 2, cpus, 0, "train less"),
        )
        with ClusterResources(60, grows=True).reserved(all_cpus):
            for need in (all_cpus, more):
                with pytest.raises(UserError, match=rf"{need.why} needs .*of them free 0 GPUs.* in 1 s \(placement\."):
                    waits(ClusterResources(1, grows=True), need)
            assert f"a training run: waiting for {2 * cpus} CPUs at once" in caplog.text and "most 1 s" in caplog.text
            waiting = threading.Thread(target=waits, args=(ClusterResources(60, grows=True), all_cpus))
            waiting.start()
            time.sleep(1)
            assert waiting.is_alive()
        waiting.join(20)
        assert not waiting.is_alive(), "what is given back is taken up"


def waits(room: ClusterResources, need: ResourceRequest) -> None:
    with room.reserved(need):
        pass


@pytest.mark.timeout(300)
def test_lack_of_memory_costs_a_bounded_number_of_workers(
    train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray ends a task where it thinks that too little memory is left: here always."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    with pytest.raises(UserError, match=r"baseline .* cost 2 workers; the last: .*memory"):
        train(train_failures=1)
    assert caplog.text.count("lost worker") == 2


@pytest.mark.timeout(300)
def test_a_range_of_processes_takes_what_there_is_room_for(tmp_path: Path) -> None:
    """Of 1, 2, 4 and 8, which divide eight norm batches; a machine that is a cluster of its own has its cores."""
    import ray

    config = config_of(tmp_path, train_workers=[1, 8])
    assert config.placement.workers_for(8) == (1, 2, 4, 8)
    with cluster_of(config):
        cpus = int(ray.cluster_resources()["CPU"])
        assert cpus == max(os.cpu_count() or 1, 1)
        resources, request = ClusterResources(5, grows=False), ResourceRequest("a training", 1, 1, 0)
        most = max(n for n in (1, 2, 4, 8) if n <= cpus)
        assert resources.largest(request, (1, 2, 4, 8)) == most
        with resources.reserved(ResourceRequest("other work", 1, cpus, 0)):
            assert resources.largest(request, (1, 2, 4, 8)) == 1, "the fewest are waited for"
