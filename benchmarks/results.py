"""Sections of RESULTS.md: a title, the machine, the date, the command and the figures; a rerun replaces its own."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def machine() -> str:
    """Processor, cores and memory, as one line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        cpu = found.group(1).strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, no GPU"
        if not _has_gpu()
        else f"{cpu}, {os.cpu_count()} cores, GPU"
    )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def table(rows: Sequence[dict[str, object]]) -> str:
    """A Markdown table; empty for no rows."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join(lines + ["| " + " | ".join(str(v) for v in row.values()) + " |" for row in rows])


def write_section(title: str, command: str, body: str, path: Path = RESULTS) -> None:
    """Replace, or append, the section called ``title``."""
    head = f"## {title}\n\n{machine()}; {datetime.date.today().isoformat()}; `{command}`\n\n{body.strip()}\n"
    text = (
        path.read_text(encoding="utf-8")
        if path.exists()
        else "# Results\n\nEvery figure was measured by the command beside it.\n"
    )
    sections = re.split(r"(?m)^(?=## )", text)
    kept = [s.rstrip() + "\n" for s in sections if not s.startswith(f"## {title}\n")]
    path.write_text("\n".join([*kept, head]), encoding="utf-8")
