"""Threads for the libraries of this package, which would otherwise start threads of their own within each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ssld_pipeline.kernels.ahead import ahead

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_threads(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """``function`` of each item, in their order, by threads within each of which OpenCV and FAISS use one."""
    import cv2

    from ssld_pipeline.copies.candidates.nearest import use_one_thread

    cv2.setNumThreads(1)

    def alone(item: Item) -> Result:
        use_one_thread()
        return function(item)

    return ahead(alone, items, num_threads)
