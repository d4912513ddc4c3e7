"""What the plan would cost: every stage that has work is tried on a sample of the real inputs, and reckoned up.

Nothing in the workspace is touched: what the trials write goes to a scratch folder. Stages are opened as workers open
them, so it is the pipeline's own code that is timed. What cannot be measured here is said, with what is assumed.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.pipeline import stage_named
from ssld_pipeline.runner.calibrate.estimate import Estimate, Machines, priced
from ssld_pipeline.runner.calibrate.trials import Trials
from ssld_pipeline.runner.plan import plan_run
from ssld_pipeline.runner.survey import Survey


@dataclass(frozen=True)
class Calibration:
    """``sampled``: images drawn of each input. ``notes`` hold for all stages; each has its own, too."""

    machines: Machines
    estimates: tuple[Estimate, ...]
    sampled: dict[str, int]
    device: str
    seconds: float
    notes: tuple[str, ...]

    @property
    def hours(self) -> float:
        """Of all stages one after the other; of those that could not be measured what is known of them."""
        return sum(e.at_least_hours if e.hours is None else e.hours for e in self.estimates)

    @property
    def is_complete(self) -> bool:
        return all(e.hours is not None for e in self.estimates)

    @property
    def cost(self) -> float | None:
        """Of what is known; None without prices."""
        known = [e.cost for e in self.estimates if e.cost is not None]
        return sum(known) if known else None

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster": vars(self.machines),
            "stages": [e.to_json() for e in self.estimates],
            "hours": self.hours,
            "is_complete": self.is_complete,
            "cost": self.cost,
            "sampled": self.sampled,
            "device": self.device,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


def calibrate_run(survey: Survey, machines: Machines, seconds: float = 60.0, seed: int = 0) -> Calibration:
    """About ``seconds`` of measuring. UserError where a run would not start either."""
    import cv2

    cv2.setNumThreads(1)  # as in a worker
    started = time.monotonic()
    plans = {made.stage: made for made in plan_run(survey)}
    with tempfile.TemporaryDirectory() as scratch:
        trials = Trials(survey, plans, machines, Path(scratch), seconds, seed)
        estimates = tuple(priced(trials.estimate(stage), machines) for stage in trials.stages)
    sampled = {name: rows.num_rows for name, rows in trials.sample.rows.items()}
    return Calibration(machines, estimates, sampled, trials.device, time.monotonic() - started, trials.notes())


def gpu_rates(config: RunConfig, text: str) -> dict[str, float]:
    """``label=5000,train=1200`` as numbers. UserError for what is none."""
    found = {}
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = item.partition("=")
        try:
            found[stage_named(config, name.strip()).name] = float(value)
        except (KeyError, ValueError):
            raise UserError(f"--gpu-rate {item}: expected STAGE=IMAGES_PER_S, as in label=5000,train=1200") from None
    return found
