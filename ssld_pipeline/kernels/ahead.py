"""Work done by threads ahead of its consumer, results in the order of the items, memory bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Item = TypeVar("Item")

_WAITING_PER_THREAD = 4


def ahead(function: Callable[[Item], T], items: Iterable[Item], num_threads: int) -> Iterator[T]:
    """``function`` of each item; at most ``4 * num_threads`` results wait for the consumer.

    An exception of ``function`` is raised where its result would have come; what was queued behind it is dropped.
    """
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="ahead") as threads:
        try:
            for item in items:
                waiting.append(threads.submit(function, item))
                if len(waiting) >= _WAITING_PER_THREAD * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
