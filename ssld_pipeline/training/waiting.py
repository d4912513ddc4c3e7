"""How long a loop waits for its data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """The same items; counts the seconds in which the next one is not there."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items, self._seconds = iter(items), 0.0

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        started = time.monotonic()
        try:
            return next(self._items)
        finally:
            self._seconds += time.monotonic() - started

    def take(self) -> float:
        """Seconds since the last call."""
        found, self._seconds = self._seconds, 0.0
        return found
