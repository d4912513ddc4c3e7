"""Ray: a pool of actors for part stages, a task for an artifact, Ray Train for a training run.

Ray carries units and receipts, never tables. Process and node death are the pool's own affair: Ray's retries do not
cover a worker that hangs or a network partition, so the driver keeps a deadline per unit and hands it out again.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError

from ssld_pipeline.config import PlacementConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.pipeline import stage_named
from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import PartWorker, Receipt, WorkerSpec, build_artifact
from ssld_pipeline.store import files
from ssld_pipeline.store.tables import Part
from ssld_pipeline.training.job import TrainJob

_POLL_S = 1.0


class Cluster:
    """Connects to ``address`` (or RAY_ADDRESS), or makes this machine a cluster of its own."""

    def __init__(self, placement: PlacementConfig, address: str | None = None) -> None:
        self._placement = placement
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
        address = address or os.environ.get("RAY_ADDRESS")
        own = {} if address else {"include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at {address}: {error}") from None

    def work(self, spec: WorkerSpec, units: Sequence[Unit]) -> Iterator[Receipt]:
        pool = _Pool(spec, self._placement, self._gpus_for(spec))
        try:
            yield from pool.work(units)
        finally:
            pool.close()

    def build(self, spec: WorkerSpec, unit: Unit) -> tuple[dict[str, Any], Part | None]:
        cores = _cores_of_largest_node()
        gpus = self._gpus_for(spec)
        spec = replace(spec, num_threads=cores, device="cuda" if gpus else "cpu")
        remote = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=self._placement.part_attempts)(build_artifact)
        return _get(remote.remote(spec, unit))

    def fit(self, spec: WorkerSpec, job: TrainJob, folder: str, fingerprint: str) -> dict[str, Any]:
        """Ray Train v2 around the same loop that runs without Ray; checkpoints are the loop's own, in ``folder``."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        placement, gpu = self._placement, bool(self._gpus_for(spec, training=True))
        share = int(ray.cluster_resources().get("CPU", 1)) // placement.train_workers
        spec = replace(spec, num_threads=max(1, min(share, _cores_of_largest_node())))
        storage = files.join(folder, "ray")
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"spec": spec, "job": job, "folder": folder, "fingerprint": fingerprint},
            scaling_config=ScalingConfig(
                num_workers=placement.train_workers, use_gpu=gpu, resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})}
            ),
            run_config=RunConfig(
                name=uuid.uuid4().hex[:12], storage_path=storage, failure_config=FailureConfig(max_failures=placement.train_failures)
            ),
        )
        trainer.fit()
        outcome = files.read_json(files.join(folder, "outcome.json"))
        files.remove(storage)
        if "error" in outcome:
            raise UserError(outcome["error"])
        return dict(outcome["metrics"])

    def close(self) -> None:
        ray.shutdown()

    def _gpus_for(self, spec: WorkerSpec, training: bool = False) -> int:
        """1 where the stage runs a network and the cluster has a GPU."""
        if not (training or stage_named(spec.stage).networks) or self._placement.use_gpu is False:
            return 0
        present = ray.cluster_resources().get("GPU", 0) > 0
        if self._placement.use_gpu and not present:
            raise UserError("placement.use_gpu is true, and the cluster has no GPU. Leave it out, or add a GPU node")
        return int(present)


def _train_worker(config: dict[str, Any]) -> None:
    """One process of the process group. A user's mistake is left in the folder: Ray Train would retry an exception."""
    import ray.train

    from ssld_pipeline.runner.here import Here

    spec: WorkerSpec = config["spec"]
    gpu = bool(ray.get_gpu_ids())
    spec = replace(spec, device="cuda" if gpu else "cpu")
    try:
        outcome: dict[str, Any] = {"metrics": Here().fit(spec, config["job"], config["folder"], config["fingerprint"])}
    except UserError as error:
        outcome = {"error": str(error)}
    if ray.train.get_context().get_world_rank() == 0:
        files.write_json(files.join(config["folder"], "outcome.json"), outcome)


class _Actor:
    """Opens its stage at the first unit, so that a mistake in opening reaches the driver as the exception it is."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: PartWorker | None = None

    def ready(self) -> int:
        return os.getpid()

    def do(self, unit: Unit) -> Receipt:
        self._worker = self._worker or PartWorker(self._spec)
        return self._worker.do(unit)


@dataclass
class _Busy:
    actor: Any
    unit: Unit | None
    since: float


class _Pool:
    """One unit per actor at a time; what is lost or late is given to another, a bounded number of times."""

    def __init__(self, spec: WorkerSpec, placement: PlacementConfig, gpus: int) -> None:
        cpus = placement.cpus_per_worker
        spec = replace(spec, num_threads=cpus, device="cuda" if gpus else "cpu")
        self._make = lambda: ray.remote(num_cpus=cpus, num_gpus=gpus)(_Actor).remote(spec)
        self._placement, self._gpus = placement, gpus
        self._busy: dict[Any, _Busy] = {}
        self._idle: list[Any] = []
        self._losses: Counter[str] = Counter()

    def work(self, units: Sequence[Unit]) -> Iterator[Receipt]:
        waiting = deque(units)
        while waiting or any(b.unit for b in self._busy.values()):
            self._hand_out(waiting)
            ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=_POLL_S)
            for reference in ready:
                busy = self._busy.pop(reference)
                try:
                    result = _get(reference)
                except RayActorError as error:
                    self._lose(busy, waiting, str(error).strip())
                    continue
                self._idle.append(busy.actor)
                if busy.unit is not None:
                    yield result
            self._reclaim_late(waiting)

    def close(self) -> None:
        for actor in [*self._idle, *(b.actor for b in self._busy.values())]:
            ray.kill(actor)

    def _hand_out(self, waiting: deque[Unit]) -> None:
        while waiting and self._idle:
            actor, unit = self._idle.pop(), waiting.popleft()
            self._busy[actor.do.remote(unit)] = _Busy(actor, unit, time.monotonic())
        starting = sum(b.unit is None for b in self._busy.values())
        for _ in range(min(len(waiting) - starting, self._num_workers() - len(self._busy))):
            actor = self._make()
            self._busy[actor.ready.remote()] = _Busy(actor, None, time.monotonic())

    def _num_workers(self) -> int:
        """Grows and shrinks with the cluster."""
        if self._placement.num_workers:
            return self._placement.num_workers
        resources = ray.cluster_resources()
        if self._gpus:
            return max(1, int(resources.get("GPU", 1)))
        return max(1, int(resources.get("CPU", 1)) // self._placement.cpus_per_worker)

    def _reclaim_late(self, waiting: deque[Unit]) -> None:
        for reference, busy in list(self._busy.items()):
            if busy.unit is not None and time.monotonic() - busy.since > self._placement.part_deadline_s:
                del self._busy[reference]
                ray.kill(busy.actor)
                self._lose(busy, waiting, f"no answer within {self._placement.part_deadline_s:.0f} s (placement.part_deadline_s)")

    def _lose(self, busy: _Busy, waiting: deque[Unit], why: str) -> None:
        name = busy.unit.name if busy.unit else "(starting)"
        self._losses[name] += 1
        if self._losses[name] >= self._placement.part_attempts:
            raise UserError(f"part {name} cost {self._losses[name]} workers; the last: {why}. Finished parts are committed")
        if busy.unit is not None:
            waiting.appendleft(busy.unit)


def _cores_of_largest_node() -> int:
    return max(1, int(max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])))


def _get(reference: Any) -> Any:
    """ray.get, with a UserError raised as itself instead of inside Ray's traceback."""
    try:
        return ray.get(reference)
    except UserError as error:
        cause = getattr(error, "cause", None)
        raise UserError(str(cause if cause is not None else error)) from None
