"""SSLD on real photographs: prepares the clothing set, runs the pipeline on it, writes what it achieved to RESULTS.md.

    python benchmarks/clothing.py --images CLOTHING --weights TEACHER.safetensors [--folder runs/clothing] [--write]

CLOTHING holds train, validation, test and pool as `ssld_pipeline/demo/clothing.py` describes; TEACHER is an ImageNet-1k
MobileNetV2 for timm's mobilenetv2_100 with pad_type same. Run it again and only what changed is computed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from results import table, write_section

from ssld_pipeline.config.load import load_config
from ssld_pipeline.demo.clothing import prepare
from ssld_pipeline.demo.outcome import outcome
from ssld_pipeline.store.workspace import Workspace

CONFIG = Path(__file__).parent.parent / "jobs" / "configs" / "clothing.yaml"


def main() -> None:
    arguments = _arguments()
    inputs = arguments.folder / "inputs"
    if not (inputs / "truth.json").exists():
        prepare(arguments.images, inputs)
    truth = json.loads((inputs / "truth.json").read_text(encoding="utf-8"))
    overrides = _overrides(arguments)
    options = [word for override in overrides for word in ("--set", override)]
    started = time.monotonic()
    stages = _run([sys.executable, "-m", "ssld_pipeline", "run", str(CONFIG), *options])
    seconds = time.monotonic() - started
    verified = subprocess.run([sys.executable, "-m", "ssld_pipeline", "verify", str(CONFIG), *options])
    subprocess.run([sys.executable, "-m", "ssld_pipeline", "report", str(CONFIG), *options], check=True)
    rows = outcome(truth, Workspace(load_config(CONFIG, tuple(overrides)).workspace))
    rows.append({"figure": "laws of the tables", "value": "all hold" if verified.returncode == 0 else "BROKEN"})
    print(table(rows))
    if arguments.write:
        log = "".join(line for line in stages if "parts run" in line)
        body = f"{table(rows)}\n\nThe run, {seconds:.0f} s in all:\n\n```\n{log}```"
        write_section(
            "Clothing: SSLD on real photographs",
            "python benchmarks/clothing.py --images CLOTHING --weights TEACHER",
            body,
        )


def _run(command: list[str]) -> list[str]:
    """The lines that the command printed, shown as they come; its exit code ends this script where it is not 0."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(process.returncode)
    return lines


def _overrides(arguments: argparse.Namespace) -> list[str]:
    folder, inputs = arguments.folder.resolve(), (arguments.folder / "inputs").resolve()
    protected = [f"{{name: {name}, uri: {inputs / name}, format: folder}}" for name in ("validation", "test")]
    return [
        f"workspace={folder / 'workspace'}",
        f"inputs.labeled.uri={inputs / 'labeled'}",
        f"inputs.protected=[{', '.join(protected)}]",
        f"inputs.pool.uri={inputs / 'pool'}",
        f"teacher.weights={arguments.weights.resolve()}",
        f"teacher.fit.data.uri={(arguments.images / 'train').resolve()}",
        *arguments.set,
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/clothing"))
    parser.add_argument("--set", action="append", default=[], help="override a setting of the config")
    parser.add_argument("--write", action="store_true", help="write the figures to RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
