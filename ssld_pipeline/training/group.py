"""The processes that train together, over torch.distributed; a process alone is a group of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Every method is called by all processes of the group at the same point, and gives all of them the same."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @classmethod
    def current(cls, device: str) -> Group:
        """That of the process group somebody has initialised; without one, this process alone."""
        if not dist.is_initialized():
            return cls(device=device)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def sum(self, value: Tensor) -> Tensor:
        return self._reduced(value, dist.ReduceOp.SUM) if self.size > 1 else value

    def least(self, value: Tensor) -> Tensor:
        return self._reduced(value, dist.ReduceOp.MIN) if self.size > 1 else value

    def sum_counts(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.size == 1:
            return counts
        summed: NDArray[np.int64] = self._reduced(torch.from_numpy(counts), dist.ReduceOp.SUM).cpu().numpy()
        return summed

    def broadcast_from_rank0(self, value: T) -> T:
        """What rank 0 says; ``value`` of the others does not matter. Clocks and directory listings differ by host."""
        if self.size == 1:
            return value
        said: list[Any] = [value if self.rank == 0 else None]
        dist.broadcast_object_list(said, src=0)
        return said[0]  # type: ignore[no-any-return]

    def merge(self, mapping: dict[str, T]) -> dict[str, T]:
        if self.size == 1:
            return dict(mapping)
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, mapping)
        return {key: value for part in gathered for key, value in part.items()}

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Fill them with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def _reduced(self, value: Tensor, how: Any) -> Tensor:
        copy = value.to(self.device, copy=True)
        dist.all_reduce(copy, how)
        return copy


ALONE = Group()
