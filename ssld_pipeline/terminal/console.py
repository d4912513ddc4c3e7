"""What a run looks like on a terminal, and in a log."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from ssld_pipeline.queries.dedupe_sweep import Sweep
    from ssld_pipeline.runner.planned import StagePlan
    from ssld_pipeline.runner.progress import StageReport
    from ssld_pipeline.verify.laws import Verdict
    from ssld_pipeline.verify.recompute import Recomputed

_MOST_DIFFERENCES = 20

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class RunView:
    """Progress bars on a terminal, one line per stage elsewhere."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description:16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self._task: Any = None
        self._lines = _Lines()

    def __enter__(self) -> RunView:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def started(self, plan: StagePlan, total: int) -> None:
        for reason, count in plan.reasons()[:3]:
            out.print(f"{plan.stage:16} {count} part(s): {reason}", markup=False)
        self._task = self._bars.add_task(plan.stage, total=total or None) if plan.of("run") else None
        self._lines.start(plan.stage, total)

    def advanced(self, amount: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, amount)
            self._lines.reach(self._lines.done + amount, "")

    def reached(self, amount: int, note: str = "") -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=amount)
            self._lines.reach(amount, note)

    def finished(self, report: StageReport) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        out.print(_line(report), markup=False)
        for warning in report.figures.get("warnings", ()):
            out.print(f"{report.stage:16} warning: {warning}", markup=False)


class _Lines:
    """Where there is no terminal: a line every half minute on how far a stage is."""

    _EVERY_S = 30.0

    def __init__(self) -> None:
        self.start("", 0)

    def start(self, stage: str, total: int) -> None:
        self._stage, self._total, self.done = stage, total, 0
        self._first: tuple[float, int] | None = None  # a resumed training begins with many steps done
        self._told = time.monotonic()

    def reach(self, amount: int, note: str) -> None:
        self.done, now = amount, time.monotonic()
        self._first = self._first or (now, amount)
        if out.is_terminal or now - self._told < self._EVERY_S:
            return
        self._told = now
        out.print(_progress(self._stage, amount, self._total, self._first, now, note), markup=False)


def _progress(stage: str, done: int, total: int, first: tuple[float, int], now: float, note: str) -> str:
    """How many are done, how many a second, and how long the rest will take."""
    since, begun = first
    rate = (done - begun) / (now - since) if now > since else 0.0
    parts = [f"{done:,} of {total:,}" if total else f"{done:,}"]
    parts += [f"{rate:.3g}/s"] if rate else []
    parts += [f"{timedelta(seconds=round((total - done) / rate))} left"] if rate and total > done else []
    return f"{stage:16} {', '.join([*parts, *([note] if note else [])])}"


def _line(report: StageReport) -> str:
    counts = [f"parts run {report.ran}", f"reused {report.reused}"]
    counts += [f"removed {report.removed}"] if report.removed else []
    counts += [f"moved {report.moved}"] if report.moved else []
    if report.ran:
        counts += [f"rows {report.num_rows:,}", f"rejects {report.num_rejects:,}"]
    figures = ", ".join(f"{k} {_figure(v)}" for k, v in report.figures.items() if isinstance(v, int | float))
    return f"{report.stage:16} {', '.join(counts)}, {report.seconds:.1f} s" + (f"  [{figures}]" if figures else "")


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def print_plan(plans: Sequence[StagePlan]) -> None:
    from ssld_pipeline.runner.planned import ACTIONS

    for plan in plans:
        if not plan.enabled:
            out.print(f"{plan.stage:16} off", markup=False)
            continue
        counts = [f"{name} {len(plan.of(name))}" for name in ACTIONS if plan.of(name)]
        out.print(f"{plan.stage:16} {', '.join(counts) or 'nothing to do'}", markup=False)
        for reason, count in plan.reasons()[:5]:
            out.print(f"{'':16}   {count} part(s): {reason}", markup=False)


def print_rows(rows: Sequence[dict[str, Any]], title: str | None = None) -> None:
    if not rows:
        out.print("no rows")
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right" if _is_number(rows, name) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    out.print(table)


def _is_number(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return all(isinstance(r[name], int | float) or r[name] is None for r in rows)


def _cell(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):
        return escape("[" + ", ".join(_cell(v) for v in value[:6]) + (", …]" if len(value) > 6 else "]"))
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return "" if value is None else escape(str(value))


def print_dedupe_sweep(found: Sweep) -> None:
    """The grid as a table of min_score by min_inliers, a line per threshold, and the pairs at the border."""
    present = found.present
    rows: dict[str, dict[str, Any]] = {}
    for cell in found.grid:
        row = _marked(cell["min_score"], present["min_score"])
        rows.setdefault(row, {"min_score": row})[_marked(cell["min_inliers"], present["min_inliers"])] = cell["removed"]
    out.print(f"removed now: {present['removed']:,} pool images, {present['denied']:,} of them denied", markup=False)
    print_rows(list(rows.values()), "images removed by min_score (down) and min_inliers (across); * as it is now")
    for name in dict.fromkeys(row["threshold"] for row in found.marginals):
        values = [
            f"{_marked(row['value'], present[name])} removes {row['removed']:,}"
            for row in found.marginals
            if row["threshold"] == name
        ]
        out.print(f"{name} alone: " + ", ".join(values), markup=False)
    if found.samples:
        print_rows(found.samples, "pairs at the border: each is decided by this threshold alone")


def _marked(value: float, present: float) -> str:
    return f"{value:g}" + ("*" if value == present else "")


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        if verdict.num_open:
            out.print(f"not complete: {'; '.join(verdict.examples)}", markup=False)
            continue
        mark = "ok    " if not verdict.num_broken else "BROKEN"
        out.print(f"{mark} {verdict.law.name:20} {verdict.law.says}", markup=False)
        if verdict.num_broken:
            noun = "file(s)" if verdict.law.name.startswith("files_") else "row(s)"
            out.print(f"       {verdict.num_broken:,} {noun}, for example: {'; '.join(verdict.examples)}", markup=False)


def print_recomputed(found: Recomputed) -> None:
    mark = "DIFFER" if found.differences else "ok    "
    out.print(
        f"{mark} {'recompute':20} {found.num_rows:,} of {found.num_stored:,} labels made again on {found.device} in "
        f"{found.seconds:.0f} s (seed {found.seed}): {len(found.differences):,} differ; probabilities by at most "
        f"{found.largest:.2g}, median {found.median:.2g}, tolerance {found.tolerance:g}, rounding aside",
        markup=False,
    )
    if found.note:
        out.print(f"       {found.note}", markup=False)
    for row in found.differences[:_MOST_DIFFERENCES]:
        out.print(f"       {row.image_id}, view {row.view}: {row.why}", markup=False)
    if len(found.differences) > _MOST_DIFFERENCES:
        out.print(f"       and {len(found.differences) - _MOST_DIFFERENCES:,} more; --json lists all", markup=False)


def print_json(value: Any) -> None:
    """Plain JSON on standard output, whatever the terminal."""
    print(json.dumps(value, indent=1, default=str, ensure_ascii=False))
