"""`ssld plan --calibrate` beside the run that it foretells: both in one go, so that the machine is the same.

    python benchmarks/calibrate.py CONFIG --workspace NEW_FOLDER [--set KEY=VALUE]... [--seconds 60] [--write]

The workspace must not be there, so that all stages have everything to do. A stage of the run takes as long as
`ssld run` says, Ray's start and the start of its workers included. Where other work shares the machine the clock says
little; CPU seconds of the run are those of its whole tree of processes, read from /proc when a stage ends.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from results import table, write_section

_LINE = re.compile(r"^(\w+)\s+parts run \d+, .*?([\d.]+) s(?:  \[|$)")
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    arguments = _arguments()
    if arguments.workspace.exists():
        sys.exit(f"{arguments.workspace} is there already; give a new folder")
    settings = [f"workspace={arguments.workspace.resolve()}", *arguments.set]
    options = [word for setting in settings for word in ("--set", setting)]
    started, load = time.monotonic(), os.getloadavg()[0]
    estimate = estimated([str(arguments.config), *options, "--seconds", str(arguments.seconds)])
    took, again = time.monotonic() - started, os.getloadavg()[0]
    taken = ran([str(arguments.config), *options])
    rows = compare(estimate["stages"], taken)
    body = f"{table(rows)}\n\nThe estimate took {took:.0f} s by the clock. Load before it {load:.1f}, before the run "
    body += f"{again:.1f}, after it {os.getloadavg()[0]:.1f}. {arguments.note}"
    print(body)
    if arguments.write:
        write_section(f"Calibration: {arguments.title}", "python benchmarks/calibrate.py CONFIG --workspace NEW", body)


def estimated(words: list[str]) -> dict[str, Any]:
    """What `ssld plan --calibrate --json` says; ends this script where it fails."""
    command = [sys.executable, "-m", "ssld_pipeline", "plan", *words, "--calibrate", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return dict(json.loads(done.stdout))


def ran(words: list[str]) -> dict[str, Taken]:
    """What each stage took, as the run prints it; ends this script where it fails."""
    found: dict[str, Taken] = {}
    command = [sys.executable, "-m", "ssld_pipeline", "run", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, Tree(process.pid) as tree:
        before = 0.0
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if match := _LINE.match(line):
                now = tree.cpu_seconds()
                found[match[1]] = Taken(float(match[2]), now - before)
                before = now
    if process.returncode:
        sys.exit(process.returncode)
    return found


class Taken(NamedTuple):
    seconds: float
    cpu_seconds: float


class Tree:
    """CPU seconds of a process and of all that descend from it, the ended ones as they were last seen."""

    def __init__(self, root: int) -> None:
        self._family, self._seen = {root}, dict[int, float]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Tree:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def cpu_seconds(self) -> float:
        return sum(self._seen.values())

    def _watch(self) -> None:
        while not self._ended.wait(0.25):
            parents = {}
            for path in Path("/proc").glob("[0-9]*/stat"):
                try:
                    fields = path.read_text().rsplit(") ", 1)[1].split()
                except (OSError, IndexError):
                    continue  # it has just ended
                parents[int(path.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS
            while more := {p for p, (parent, _) in parents.items() if parent in self._family} - self._family:
                self._family |= more
            self._seen |= {p: seconds for p, (_, seconds) in parents.items() if p in self._family}


def compare(stages: list[dict[str, Any]], taken: dict[str, Taken]) -> list[dict[str, object]]:
    rows = [
        _row(
            s["stage"],
            f"{s['to_do']:,} {s['unit']}",
            Taken(s["hours"] * 3600, (s["core_hours"] or 0.0) * 3600),
            taken[s["stage"]],
            s["bottleneck"],
        )
        for s in stages
    ]
    foretold = Taken(*(sum(s[name] or 0.0 for s in stages) * 3600 for name in ("hours", "core_hours")))
    own = [taken[s["stage"]] for s in stages]
    return [*rows, _row("sum", "", foretold, Taken(sum(t.seconds for t in own), sum(t.cpu_seconds for t in own)), "")]


def _row(stage: str, to_do: str, foretold: Taken, took: Taken, bottleneck: str) -> dict[str, object]:
    return {
        "stage": stage,
        "to do": to_do,
        "estimate, s": f"{foretold.seconds:.1f}",
        "run, s": f"{took.seconds:.1f}",
        "estimate / run": _ratio(foretold.seconds, took.seconds),
        "estimate, CPU s": f"{foretold.cpu_seconds:.1f}",
        "run, CPU s": f"{took.cpu_seconds:.1f}",
        "estimate / run, CPU": _ratio(foretold.cpu_seconds, took.cpu_seconds),
        "bottleneck": bottleneck,
    }


def _ratio(foretold: float, took: float) -> str:
    return f"{foretold / took:.2f}" if took and foretold else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="override a setting of the config")
    parser.add_argument("--seconds", type=float, default=60, help="time to measure for")
    parser.add_argument("--title", default="clothing", help="of the section in RESULTS.md")
    parser.add_argument("--note", default="", help="a sentence to add, such as what else the machine did")
    parser.add_argument("--write", action="store_true", help="write the figures to RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
