"""Brings a run up to date on the cluster this job runs in, checks the laws of its tables, writes its report.

    python jobs/run_pipeline.py CONFIG [--set select.per_class=400]... [--until select]

Exit codes: 0 done; 1 a bug, or a broken law; 2 a user's mistake. A job that is killed is started again with the same
arguments: what was committed is not redone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.report.write import write_report
from ssld_pipeline.runner.engine import Engine
from ssld_pipeline.runner.local_engine import LocalEngine
from ssld_pipeline.runner.on_ray.engine import RayEngine
from ssld_pipeline.runner.run import run_pipeline
from ssld_pipeline.runner.survey import survey
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.terminal import console
from ssld_pipeline.verify.laws import verify_laws


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _bring_up_to_date(load_config(options.config, tuple(options.set)), options.until)
    except UserError as error:
        print(f"ssld: {error}", file=sys.stderr)
        return 2


def _bring_up_to_date(config: RunConfig, until: str | None) -> int:
    surveyed = survey(config)
    with console.RunView() as view:
        run_pipeline(surveyed, lambda: _engine(config), view, until=until)
    verdicts = verify_laws(Workspace(config.workspace), config)
    console.print_verdicts(verdicts)
    print("report:", write_report(config, surveyed.classes, None))
    return int(any(v.num_broken for v in verdicts))


def _engine(config: RunConfig) -> Engine:
    """The cluster that RAY_ADDRESS names, which Ray sets for its jobs; without one, this machine."""
    return LocalEngine() if config.placement.runner == "local" else RayEngine(config.placement)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", help="the run's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage; select needs no GPU for days")
    return parser


if __name__ == "__main__":
    sys.exit(main())
