"""When a training writes its log and its checkpoints: by the clock of rank 0, asked about every two seconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.group import Group

_FIRST_STEPS = 20  # each has its row: most runs that go wrong do so here
_ASK_EVERY_S = 2.0
_LEAST_ROWS = 50  # of a run that is over in minutes, for its curves


class Due(NamedTuple):
    """What is due after a step, and the step after which to ask again."""

    log: bool
    save: bool
    ask_at: int


class Pace:
    """The answer of rank 0 has every GPU of a group wait, so rank 0 says when it is asked again; the ends of an epoch
    and of the run, and some fifty steps between, are asking steps too. A process alone looks at its clock after every
    step."""

    def __init__(self, group: Group, execution: Execution, first: int, total: int, per_epoch: int) -> None:
        self._group, self._execution = group, execution
        self._total, self._per_epoch = total, per_epoch
        self._every = max(1, total // _LEAST_ROWS)
        self._paused_s = 0.0
        self._logged = self._saved = self._asked = self._now()
        self._logged_at = self._asked_at = first
        self._ask_at = first + 1

    def after(self, done: int) -> Due | None:
        """What is due after step ``done``, the same in every process; null where nobody is asked."""
        is_certain = done == self._total or done % self._per_epoch == 0 or done % self._every == 0
        if self._group.size > 1 and done < self._ask_at and not is_certain:
            return None
        due = self._group.broadcast_from_rank0(self._due(done))
        self._asked, self._asked_at, self._ask_at = self._now(), done, due.ask_at
        if due.save:
            self._saved = self._now()
        return due

    def _due(self, done: int) -> Due:
        now = self._now()
        by_time = now - self._logged >= self._execution.log_every_s
        log = done <= _FIRST_STEPS or done == self._total or done % self._every == 0 or by_time
        save = done < self._total and now - self._saved >= self._execution.checkpoint_every_s
        step_s = (now - self._asked) / max(1, done - self._asked_at)
        wait = 1 if done < _FIRST_STEPS else max(1, int(_ASK_EVERY_S / max(step_s, 1e-6)))
        return Due(log, save, done + wait)

    def row(self, done: int) -> tuple[int, float]:
        """Steps and seconds since the last call, without pauses."""
        now = self._now()
        found = done - self._logged_at, max(now - self._logged, 1e-9)
        self._logged, self._logged_at = now, done
        return found

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time that counts as no step's: validation, checkpoints."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - started

    def _now(self) -> float:
        return time.monotonic() - self._paused_s
