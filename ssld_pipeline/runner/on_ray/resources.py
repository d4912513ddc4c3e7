"""Wait for the CPUs and GPUs that a task or a training group needs at once. Ray itself waits silently and for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from ssld_pipeline.errors import UserError

_log = logging.getLogger(__name__)
_POLL_S = 1.0
_TRY_S = 5.0
_ANNOUNCE_AFTER_S = 10.0


@dataclass(frozen=True)
class ResourceRequest:
    """``count`` times ``cpus`` and ``gpus``, each of them on one node. ``why``: what for, with the setting that asks
    for so much; ``remedy``: what helps beside more nodes."""

    why: str
    count: int
    cpus: int
    gpus: int
    remedy: str = ""

    @property
    def bundle(self) -> dict[str, float]:
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}

    def __str__(self) -> str:
        each = "" if self.count == 1 else f", {_amount(self.bundle)} on one node each"
        return f"{_amount({name: self.count * n for name, n in self.bundle.items()})} at once{each}"


class ClusterResources:
    """``wait_s``: for how long nodes, or the end of other work on the cluster, are waited for. ``grows``: nodes may
    come; a machine that is a cluster of its own has what it has."""

    def __init__(self, wait_s: float, grows: bool) -> None:
        self._wait_s, self._grows = wait_s, grows

    def require(self, request: ResourceRequest) -> None:
        """UserError where the cluster is too small, even if nobody else used it, and does not grow in time."""
        if num_bundles_that_fit(request) >= request.count:
            return
        with _placement_group(request):
            limit_s = self._wait_s if self._grows else 0
            self._wait(request, lambda: num_bundles_that_fit(request) >= request.count, limit_s)

    @contextmanager
    def reserved(self, request: ResourceRequest) -> Iterator[PlacementGroup]:
        """It is kept free of other work meanwhile. UserError where it does not come in time."""
        self.require(request)
        with _placement_group(request) as group:
            self._wait(request, lambda: bool(group.wait(_POLL_S)), self._wait_s)
            yield group

    def largest(self, request: ResourceRequest, counts: Sequence[int]) -> int:
        """The greatest of the ascending ``counts`` for which there is room now; the first where there is for none, and
        ``reserved`` then waits for that."""
        for count in reversed(counts[1:]):
            larger = replace(request, count=count)
            if num_bundles_that_fit(larger) >= count:
                with _placement_group(larger) as group:
                    if group.wait(_TRY_S):
                        return count
        return counts[0]

    def _wait(self, request: ResourceRequest, is_there: Callable[[], bool], limit_s: float) -> None:
        started, told = time.monotonic(), False
        while not is_there():
            waited = time.monotonic() - started
            if waited >= limit_s:
                raise UserError(_explain(request, limit_s))
            if not told and (waited >= _ANNOUNCE_AFTER_S or num_bundles_that_fit(request) < request.count):
                told = True
                _log.warning(
                    "%s: waiting for %s; %s. For at most %.0f s (placement.room_wait_s)",
                    *(request.why, request, _present(), limit_s),
                )
            time.sleep(_POLL_S)


def num_bundles_that_fit(request: ResourceRequest) -> int:
    """How many of its bundles the nodes that are there could hold, were they idle."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(node.get(name, 0) // n) for name, n in request.bundle.items()) for node in nodes)


@contextmanager
def _placement_group(request: ResourceRequest) -> Iterator[PlacementGroup]:
    """Also an autoscaler sees it, and adds nodes."""
    group = placement_group([request.bundle] * request.count)
    try:
        yield group
    finally:
        remove_placement_group(group)


def _explain(request: ResourceRequest, limit_s: float) -> str:
    waited = f", and that did not change in {limit_s:.0f} s (placement.room_wait_s)" if limit_s else ""
    more = f", or {request.remedy}" if request.remedy else ""
    return f"{request.why} needs {request}; {_present()}{waited}. Add nodes{more}"


def _present() -> str:
    total, free = ray.cluster_resources(), ray.available_resources()
    amounts = [{name: int(found.get(name, 0)) for name in ("CPU", "GPU")} for found in (total, free)]
    return f"the cluster has {_amount(amounts[0])}, of them free {_amount(amounts[1])}"


def _amount(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{n:g} {name}{'' if n == 1 else 's'}" for name, n in sorted(resources.items(), reverse=True))
