"""Where and how fast a training runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Execution:
    """Where and how fast a job runs; nothing here changes a result beyond floating point.

    ``norm_batches_per_pass``: norm batches that go through a network at once; batch norm still computes its statistics
    per norm batch. A student that draws at random in training (dropout, drop path) takes one at a time, and so do those
    that are trained together with it. ``compile``: torch.compile of students and teacher. ``log_every_s``: seconds
    between rows of metrics after the first 20 steps.
    ``cache``: local folder for the files that the processes of a node share; null: the default of `row_store`.
    """

    num_threads: int = 1
    loader_threads: int = 2
    device: str = "cpu"
    amp: bool = False
    checkpoint_every_s: float = 600
    norm_batches_per_pass: int = 1
    compile: bool = False
    log_every_s: float = 10
    cache: str | None = None
