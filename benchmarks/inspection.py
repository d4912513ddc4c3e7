"""Time to the first and to the last line of every form of `ssld inspect` on a drawn table of 14.2 M soft labels.

    python benchmarks/inspection.py --scratch FOLDER [--rows 14197122] [--classes 1000] [--repeats 5] [--write]

The workspace is that of benchmarks/selection.py (kept in FOLDER), with its manifest. Each call is a process of its own,
its output a pipe. "warm": the files are in the page cache; "cold": they were dropped from it before the call.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from results import table, write_section
from selection import draw

from ssld_pipeline.config.load import load_config
from ssld_pipeline.store.workspace import Workspace

IMAGE = "SELECT image_id FROM soft_labels WHERE part LIKE '%-001.tar#0' LIMIT 1"
FORMS = (
    ("soft_labels",),
    ("soft_labels", "--json"),
    ("soft_labels", "--class", "class 7"),
    ("soft_labels", "--image", "ID"),
    ("manifest", "--class", "class 7"),
    ("catalog",),
)


class Run(NamedTuple):
    first: float
    end: float
    cpu: float
    peak_gib: float


def main() -> None:
    arguments = _arguments()
    config = arguments.scratch / f"{arguments.rows}x{arguments.classes}" / "config.yaml"
    if not config.exists():
        draw(config, arguments.rows, arguments.classes, 4000)
    workspace = Workspace(load_config(config).workspace)
    if not workspace.tables["manifest"].parts():
        subprocess.run([sys.executable, "-m", "ssld_pipeline", "select", str(config)], check=True)
    with workspace.connect("soft_labels") as tables:
        ((image,),) = tables.execute(IMAGE).fetchall()
    rows = []
    for form in FORMS:
        words = [image if word == "ID" else word for word in form]
        command = [sys.executable, "-m", "ssld_pipeline", "inspect", str(config), *words]
        measured(command)
        warm = [measured(command) for _ in range(arguments.repeats)]
        forget_pages(Path(workspace.uri))
        rows.append(summary(" ".join(form), warm, measured(command)))
        print(rows[-1], flush=True)
    body = (
        table(rows) + "\n\nMedians of the warm calls, peaks the largest seen; seconds by the clock. " + arguments.note
    )
    if arguments.write:
        title = f"Inspect: {arguments.rows:,} soft labels, {arguments.classes:,} classes"
        write_section(title, "python benchmarks/inspection.py --scratch DIR", body)


def measured(command: list[str]) -> Run:
    """A process; ends this script where it fails."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)
    first = time.monotonic() - started
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return Run(first, time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def forget_pages(folder: Path) -> None:
    """The kernel is advised to drop the folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def summary(form: str, warm: list[Run], cold: Run) -> dict[str, object]:
    return {
        "ssld inspect CONFIG": f"`{form}`",
        "first line, s": f"{statistics.median(r.first for r in warm):.2f}",
        "end, s": f"{statistics.median(r.end for r in warm):.2f}",
        "CPU s": f"{statistics.median(r.cpu for r in warm):.2f}",
        "peak GiB": f"{max(r.peak_gib for r in warm):.2f}",
        "cold: first, s": f"{cold.first:.2f}",
        "cold: end, s": f"{cold.end:.2f}",
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=14_197_122)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--note", default="", help="a sentence to add, such as what else the machine did")
    parser.add_argument("--write", action="store_true", help="write the figures to RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
