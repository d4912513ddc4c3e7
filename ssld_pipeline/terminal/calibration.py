"""What `ssld plan --calibrate` prints for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.terminal.console import out, print_rows

if TYPE_CHECKING:
    from ssld_pipeline.runner.calibrate.calibration import Calibration
    from ssld_pipeline.runner.calibrate.estimate import Estimate


def print_calibration(found: Calibration) -> None:
    """A row per stage that has work, the sum, and what was assumed."""
    machines = found.machines
    where = f"{machines.cpus} CPU cores" + (f" and {machines.gpus} GPUs" if machines.gpus else ", no GPU")
    if not found.estimates:
        out.print("nothing to do, nothing to measure")
        return
    print_rows(
        [_row(e, found.cost is not None) for e in found.estimates],
        f"on {where}; img/s are of one worker; measured in {found.seconds:.0f} s",
    )
    least = "" if found.is_complete else "at least "
    cost = "" if found.cost is None else f", cost {least}{found.cost:,.2f}"
    out.print(f"in all {least}{_hours(found.hours)}{cost}", markup=False)
    for stage in found.estimates:
        for note in stage.notes:
            out.print(f"{stage.stage}: {note}", markup=False)
    drawn = ", ".join(f"{count:,} of {name}" for name, count in found.sampled.items())
    out.print(f"sample: {drawn} images", markup=False)
    for note in found.notes:
        out.print(f"assumed: {note}", markup=False)


def _row(stage: Estimate, is_priced: bool) -> dict[str, Any]:
    row = {
        "stage": stage.stage,
        "to do": f"{stage.to_do:,} {stage.unit}",
        "img/s": "not known" if stage.rate is None else f"{stage.rate:,.1f}",
        "workers": f"{stage.gpus} GPU" if stage.gpus else str(stage.workers),
        "time": _hours(stage.hours) if stage.hours is not None else f">{_hours(stage.at_least_hours)}",
        "GB": f"{stage.gigabytes:.3g}",
        "bottleneck": stage.bottleneck or "not known",
    }
    return {**row, "cost": "not known" if stage.cost is None else f"{stage.cost:,.2f}"} if is_priced else row


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"
