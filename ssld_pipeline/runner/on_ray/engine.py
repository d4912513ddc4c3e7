"""Ray: tasks for part stages (actors where there is a GPU), a task for an artifact, Ray Train for a training group.

Ray carries units and receipts, never tables. Process and node death are the pool's own affair: Ray's retries do not
cover a worker that hangs or a network partition, so the driver keeps a deadline per unit and hands it out again.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import ray
from ray.exceptions import (
    AuthenticationError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ssld_pipeline.config.placement import PlacementConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.pipeline import stage_named
from ssld_pipeline.runner.engine import Training
from ssld_pipeline.runner.local_engine import LocalEngine
from ssld_pipeline.runner.on_ray.resources import ClusterResources, ResourceRequest
from ssld_pipeline.runner.units import Unit
from ssld_pipeline.runner.work import PartWorker, Receipt, WorkerSpec, build_artifact
from ssld_pipeline.stages.stage import TrainData
from ssld_pipeline.store import files
from ssld_pipeline.store.part import Part

_log = logging.getLogger(__name__)
_POLL_S = 1.0
_WATCH_S = 2.0
_ANSWER_S = 10.0
_DECODE_RETRIES = 4
_GROUP_START_S = 60.0  # Ray Train's, for one attempt to start a group
_LOSSES = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)


class RayEngine:
    """Connects to ``address`` (or RAY_ADDRESS), or makes this machine a cluster of its own."""

    def __init__(self, placement: PlacementConfig, address: str | None = None) -> None:
        self._placement = placement
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
        address = address or os.environ.get("RAY_ADDRESS")
        # "local": without it Ray would join whatever cluster was last started on this machine.
        # As many CPUs as the largest request, or it would wait for ever on a machine that has fewer.
        of_worker = placement.cpus_per_worker + placement.decode_workers
        cores = max(os.cpu_count() or 1, placement.fewest_train_workers, of_worker)
        own = {} if address else {"include_dashboard": False, "num_cpus": cores}
        self._resources = ClusterResources(placement.room_wait_s, grows=bool(address))
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
        except (ConnectionError, ValueError, AuthenticationError) as error:
            raise UserError(f"no Ray cluster answers at {address}: {error}") from None

    def work(self, spec: WorkerSpec, units: Sequence[Unit]) -> Iterator[Receipt | None]:
        pool = _Pool(spec, self._placement, self._gpus_for(spec))
        try:
            yield from pool.work(units)
        finally:
            pool.close()

    def build(self, spec: WorkerSpec, unit: Unit) -> tuple[dict[str, Any], Part | None]:
        gpus = self._gpus_for(spec)
        cores = _cores_of_largest_node(gpus)
        spec = replace(spec, num_threads=cores, device="cuda" if gpus else "cpu")
        request = ResourceRequest(f"{spec.stage} (all cores of a node)", 1, cores, gpus)
        figures, rejects = self._do(request, self._placement.part_attempts, build_artifact, spec, unit)
        return figures, rejects

    def require_resources(self, spec: WorkerSpec) -> None:
        self._resources.require(self._training_request(spec))

    def fit(
        self, trainings: Sequence[Training], data: TrainData, at_row: Callable[[dict[str, Any]], None]
    ) -> list[dict[str, Any]]:
        """One process is a task; several are Ray Train's, around the same loop, whose checkpoints are in the folders of
        the trainings."""
        first = trainings[0].spec
        gpu = self._gpus_for(first, training=True)
        workers = self._workers_of(first)
        share = int(ray.cluster_resources().get("CPU", 1)) // workers[-1]
        threads = self._placement.train_threads or max(1, min(share, _cores_of_largest_node(gpu)))
        device = "cuda" if gpu else "cpu"
        placed = [replace(t, spec=replace(t.spec, num_threads=threads, device=device)) for t in trainings]
        with _Watch(trainings[0].folder, at_row):
            if workers[-1] > 1:
                return self._fit_in_group(placed, data, workers)
            attempts = 1 + self._placement.train_failures
            return list(self._do(self._training_request(first), attempts, _fit, placed, data))

    def _workers_of(self, spec: WorkerSpec) -> tuple[int, ...]:
        """The numbers of processes that can share a batch of this training, ascending."""
        return self._placement.workers_for(spec.config.recipes()[spec.stage].num_micro_batches)

    def _training_request(self, spec: WorkerSpec) -> ResourceRequest:
        """For the fewest processes."""
        gpus, setting = self._gpus_for(spec, training=True), f"placement.train_workers: {self._placement.train_workers}"
        less = "lower placement.train_workers, or do first what needs less: ssld run CONFIG --until select"
        return ResourceRequest(f"{spec.stage} ({setting})", self._workers_of(spec)[0], 1, gpus, less)

    def _do(self, request: ResourceRequest, attempts: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """What one task returns. Ray would try again without end a task that ended for lack of memory, so a lost worker
        is counted here."""
        for lost in range(attempts):
            with self._resources.reserved(request) as group:
                options = {
                    "num_cpus": request.cpus,
                    "num_gpus": request.gpus,
                    "max_retries": 0,
                    "scheduling_strategy": PlacementGroupSchedulingStrategy(group),
                }
                task = ray.remote(**options)(function)
                try:
                    return _get(task.remote(*arguments))
                except _LOSSES as error:
                    why = str(error).strip()
                    _log.warning("%s lost worker %d of %d: %s", request.why, lost + 1, attempts, why)
        raise UserError(f"{request.why} cost {attempts} workers; the last: {why}")

    def _fit_in_group(
        self, trainings: Sequence[Training], data: TrainData, workers: tuple[int, ...]
    ) -> list[dict[str, Any]]:
        """Of ``workers`` as many as there is room for. Where there is a choice, it is made anew for every attempt: a
        group that lost a node goes on with fewer processes, and gives the same model."""
        from ray.train import ControllerError, WorkerGroupError

        request, failures = self._training_request(trainings[0].spec), self._placement.train_failures
        if len(workers) == 1:
            return self._fit_in_one_group(trainings, data, request, failures)
        for lost in range(1 + failures):
            with self._resources.reserved(request):
                pass
            count = self._resources.largest(request, workers)
            try:
                return self._fit_in_one_group(trainings, data, replace(request, count=count), 0)
            except (ControllerError, WorkerGroupError) as error:
                if lost == failures:
                    raise
                _log.warning("%s lost one of %d processes, for the %d. time", request.why, count, lost + 1)
                _log.warning("%s", error)
        raise AssertionError  # the last attempt returns or raises

    def _fit_in_one_group(
        self, trainings: Sequence[Training], data: TrainData, request: ResourceRequest, failures: int
    ) -> list[dict[str, Any]]:
        """``request.count`` processes."""
        from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        spec, folder = trainings[0].spec, trainings[0].folder
        gpu = spec.device == "cuda"
        storage, name = files.join(folder, "ray"), uuid.uuid4().hex[:12]
        mistake = files.join(storage, f"{name}.mistake.json")
        fit = {"trainings": list(trainings), "data": data}
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"mistake": mistake, "fit": fit},
            scaling_config=ScalingConfig(
                num_workers=request.count,
                use_gpu=gpu,
                resources_per_worker={"CPU": 1, "GPU": 1} if gpu else {"CPU": 1},
            ),
            run_config=RunConfig(
                name=name,
                storage_path=storage,
                failure_config=FailureConfig(
                    max_failures=failures,
                    max_preemption_failures=failures,
                    controller_failure_limit=1 + int(self._placement.room_wait_s / _GROUP_START_S),
                ),
            ),
        )
        with self._resources.reserved(request):
            pass  # Ray Train asks for the same itself
        try:
            trainer.fit()
        except ControllerError:  # perhaps for lack of room, which is then said
            with self._resources.reserved(request):
                raise
        finally:  # when one rank leaves the group, the others fail too: its reason comes first
            found = files.read_json(mistake)
            files.remove(storage)
            if found:
                raise UserError(found["error"])
        return list(files.read_json(files.join(folder, "outcome.json"))["metrics"])

    def close(self) -> None:
        ray.shutdown()

    def _gpus_for(self, spec: WorkerSpec, training: bool = False) -> int:
        """1 where the stage can use a GPU and the cluster has one."""
        stage = stage_named(spec.config, spec.stage)
        searches = stage.table == "pairs" and self._placement.dedupe_on_gpu
        if not (training or stage.networks or searches) or self._placement.use_gpu is False:
            return 0
        if self._placement.use_gpu:
            self._resources.require(ResourceRequest("placement.use_gpu", 1, 0, 1, "leave it out"))
        return int(ray.cluster_resources().get("GPU", 0) > 0)


def _fit(trainings: Sequence[Training], data: TrainData) -> list[dict[str, Any]]:
    return LocalEngine().fit(trainings, data, lambda row: None)


def _train_worker(config: dict[str, Any]) -> None:
    """One process of the process group, which ends with it: the others would wait for it until the group's timeout.

    A user's mistake is left at ``mistake``. Ray Train, which cannot know that another try is in vain, starts the group
    again; it then ends at once.
    """
    import ray.train
    import ray.train.torch

    from ssld_pipeline.training.group import Group

    fit = config["fit"]
    first = fit["trainings"][0]
    if first.spec.device == "cuda":
        import torch

        torch.cuda.set_device(ray.train.torch.get_device())  # every worker of a node sees all its GPUs
    # The word of one, since a file system may show the file to one node sooner than to another.
    if Group.current(first.spec.device).broadcast_from_rank0(files.exists(config["mistake"])):
        return
    try:
        metrics = _fit(**fit)
    except UserError as error:
        files.write_json(config["mistake"], {"error": str(error)})
        raise
    if ray.train.get_context().get_world_rank() == 0:
        files.write_json(files.join(first.folder, "outcome.json"), {"metrics": metrics})


class _Watch:
    """Tells how far a training run is, from the metrics that it writes: Ray tells its controller alone."""

    def __init__(self, folder: str, at_row: Callable[[dict[str, Any]], None]) -> None:
        self._uri, self._at_row = files.join(folder, "metrics.jsonl"), at_row
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(_WATCH_S):
            if files.exists(self._uri) and b"\n" in (data := files.read_bytes(self._uri)):
                self._at_row(json.loads(data.rsplit(b"\n", 2)[-2]))  # what follows the last line end is half a row


@lru_cache(maxsize=1)
def _opened(token: str, holder: _Holder) -> PartWorker:
    """The process's worker for one stage of one run; opening the next lets go of it."""
    num_decoders = holder.spec.config.placement.decode_workers
    return PartWorker(holder.spec, _OnOtherNodes(num_decoders) if num_decoders else None)


@dataclass(frozen=True)
class _Holder:
    """A spec that a cache may hold: equal whatever it contains, told apart by the token beside it."""

    spec: WorkerSpec = field(compare=False)


def _do_unit(token: str, spec: WorkerSpec, unit: Unit) -> Receipt:
    """As a task: Ray hands the next task to the same process, where the libraries are loaded and the stage is open."""
    return _opened(token, _Holder(spec)).do(unit)


class _OnOtherNodes:
    """A ``MapAhead`` of tasks, spread over the cluster; two results per CPU are on their way or wait."""

    def __init__(self, num_cpus: int) -> None:
        self._num_cpus = num_cpus

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        task = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(_apply)
        token, stored = uuid.uuid4().hex, [ray.put(function)]  # in a list, Ray hands on the reference itself
        waiting: deque[tuple[Any, Callable[[], Any]]] = deque()
        for item in items:
            start = partial(task.remote, token, stored, item)
            waiting.append((start(), start))
            if len(waiting) >= 2 * self._num_cpus:
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())


def _outcome(reference: Any, start: Callable[[], Any]) -> Any:
    """A task has no state of this process, so that it may be made again wherever its node is lost; not for ever, or an
    image that ends its decoder would be decoded until the part's deadline."""
    for _ in range(_DECODE_RETRIES):
        try:
            return _get(reference)
        except (*_LOSSES, ObjectLostError):
            reference = start()
    return _get(reference)


def _apply(token: str, stored: list[Any], item: Any) -> Any:
    return _function(token, _Stored(stored))(item)


@dataclass(frozen=True)
class _Stored:
    reference: list[Any] = field(compare=False)


@lru_cache(maxsize=1)
def _function(token: str, stored: _Stored) -> Callable[[Any], Any]:
    """Kept from task to task with the files that it holds open."""
    import cv2

    cv2.setNumThreads(1)
    function: Callable[[Any], Any] = ray.get(stored.reference[0])
    return function


class _GpuActor:
    """As an actor: the network leaves the GPU's memory when the stage ends, which an idle task process would not do."""

    def do(self, token: str, spec: WorkerSpec, unit: Unit) -> Receipt:
        return _do_unit(token, spec, unit)


@dataclass
class _Busy:
    """A unit on its way; ``actor`` is None where a task does it."""

    actor: Any
    unit: Unit
    since: float


class _Pool:
    """One unit per worker at a time; what is lost or late is given to another, a bounded number of times."""

    def __init__(self, spec: WorkerSpec, placement: PlacementConfig, gpus: int) -> None:
        self._placement, self._gpus = placement, gpus
        runs_network = bool(stage_named(spec.config, spec.stage).networks)
        self._num_decoders = placement.decode_workers if runs_network else 0
        self._cpus = placement.cpus_per_worker
        if gpus and runs_network and not self._num_decoders:  # a GPU is fed by the cores of its node
            self._cpus = max(self._cpus, _cores_per_gpu())
        spec = replace(spec, num_threads=self._cpus, device="cuda" if gpus else "cpu")
        self._deadline_s = spec.deadline_s
        self._token, self._spec = uuid.uuid4().hex, ray.put(spec)
        # Ray's own retries would hide how often a part was lost, and know no deadline.
        self._task = ray.remote(num_cpus=self._cpus, max_retries=0)(_do_unit)
        self._actor = ray.remote(num_cpus=self._cpus, num_gpus=gpus)(_GpuActor)
        self._busy: dict[Any, _Busy] = {}
        self._idle_actors: list[Any] = []
        self._losses: Counter[str] = Counter()

    def work(self, units: Sequence[Unit]) -> Iterator[Receipt | None]:
        waiting = deque(units)
        while waiting or self._busy:
            while waiting and len(self._busy) < self._num_workers():
                self._hand_out(waiting.popleft())
            ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=_POLL_S)
            if not ready:
                yield None
            for reference in ready:
                busy = self._busy.pop(reference)
                try:
                    receipt = _get(reference)
                except _LOSSES as error:
                    self._lose(replace(busy, unit=self._warned(busy.unit)), waiting, str(error).strip())
                    continue
                if busy.actor is not None:
                    self._idle_actors.append(busy.actor)
                yield receipt
            self._reclaim_late(waiting)

    def close(self) -> None:
        for reference, busy in self._busy.items():
            self._stop(reference, busy)
        for actor in self._idle_actors:
            ray.kill(actor)

    def _hand_out(self, unit: Unit) -> None:
        actor = (self._idle_actor() or self._actor.remote()) if self._gpus else None
        do = actor.do if actor is not None else self._task
        self._busy[do.remote(self._token, self._spec, unit)] = _Busy(actor, unit, time.monotonic())

    def _idle_actor(self) -> Any:
        """One that answers: a node that was lost took its idle actors with it, and they are no fault of the part's."""
        while self._idle_actors:
            actor = self._idle_actors.pop()
            try:
                ray.get(actor.__ray_ready__.remote(), timeout=_ANSWER_S)
                return actor
            except (RayActorError, GetTimeoutError):
                ray.kill(actor)
        return None

    def _warned(self, unit: Unit) -> Unit:
        """The last worker is told that others ended at this part: one of its images may be the reason."""
        return replace(unit, careful=self._losses[unit.name] + 2 >= self._placement.part_attempts)

    def _num_workers(self) -> int:
        """Grows and shrinks with the cluster."""
        resources = ray.cluster_resources()
        own = self._cpus + self._num_decoders
        present = max(1, int(resources.get("CPU", 1)) // own)
        if not self._gpus:
            return self._placement.num_workers or present
        # An actor beyond the GPUs would hold its unit, unscheduled, until the deadline.
        return max(1, min(self._placement.num_workers or present, present, int(resources.get("GPU", 1))))

    def _reclaim_late(self, waiting: deque[Unit]) -> None:
        for reference, busy in list(self._busy.items()):
            limit = self._deadline_s(busy.unit)
            if time.monotonic() - busy.since > limit:
                del self._busy[reference]
                self._stop(reference, busy)
                self._lose(busy, waiting, f"no answer within {limit:.0f} s (placement.part_deadline_s)")

    def _stop(self, reference: Any, busy: _Busy) -> None:
        if busy.actor is not None:
            ray.kill(busy.actor)
        else:
            ray.cancel(reference, force=True)

    def _lose(self, busy: _Busy, waiting: deque[Unit], why: str) -> None:
        name = busy.unit.name
        self._losses[name] += 1
        if self._losses[name] >= self._placement.part_attempts:
            raise UserError(
                f"part {name} cost {self._losses[name]} workers; the last: {why}. Finished parts are committed"
            )
        _log.warning("part %s lost its worker: %s; it is given to another", name, why)
        waiting.appendleft(busy.unit)


def _cores_of_largest_node(gpus: int) -> int:
    """Among the nodes that have so many GPUs: what asks for more cores than such a node has is never scheduled."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, *(int(r.get("CPU", 0)) for r in nodes if r.get("GPU", 0) >= gpus))


def _cores_per_gpu() -> int:
    """On the node where they are fewest."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return min((int(r.get("CPU", 0) // r["GPU"]) for r in nodes if r.get("GPU", 0) >= 1), default=1)


def _get(reference: Any) -> Any:
    """ray.get, with a UserError raised as itself instead of inside Ray's traceback."""
    try:
        return ray.get(reference)
    except UserError as error:
        cause = getattr(error, "cause", None)
        raise UserError(str(cause if cause is not None else error)) from None
