"""A workspace with finished, begun and forgotten trainings, written without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mini

from ssld_pipeline.config.load import load_config
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import EVALUATIONS
from ssld_pipeline.stages.trainings import settings as settings_of
from ssld_pipeline.store import files
from ssld_pipeline.store.fingerprints import Fingerprint
from ssld_pipeline.store.workspace import Workspace

RECIPE = {"steps": 40, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0, "image_size": 32}
NODES: dict[str, dict[str, Any]] = {
    "small": {"student": {"model": "timm:test_resnet"}, "teacher": "tuned", "norm_batch": 4},
    "first": {},
    "tuned": {"init": "first", "data": "labeled", "loss": "kl", "temperature": 2.0},
    "pair": {"teacher": "tuned", "together": "small", "norm_batch": 4},
    "hard": {"data": "labeled", "loss": "ce"},
}
"""In the order of the file; they run as first, tuned, small, pair, hard."""

ORDER = ("first", "tuned", "small", "pair", "hard")


def config_of(folder: Path, nodes: dict[str, dict[str, Any]], **changes: Any) -> RunConfig:
    own = {k: v for k, v in mini.settings().items() if k not in ("train", "finetune", "baseline")}
    return load_config(write(folder, own, nodes, changes))


def write(folder: Path, own: dict[str, Any], nodes: dict[str, dict[str, Any]], changes: dict[str, Any]) -> Path:
    import yaml

    path = folder / "config.yaml"
    trainings = {name: {**RECIPE, **node} for name, node in nodes.items()}
    path.write_text(yaml.safe_dump({**own, "trainings": trainings, **changes}, sort_keys=False))
    return path


def metrics(last_step: int, *, top1: float = 0.5, resumed: bool = False) -> bytes:
    rows = [{"step": s, "loss": 100 / s, "lr": 0.1, "images_per_s": 10.0 * s} for s in range(10, last_step + 1, 10)]
    rows += [{"step": 10, "resumed_at": 10}] if resumed else []
    rows += [{"step": last_step, "validation_top1": top1}]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def finish(
    config: RunConfig,
    name: str,
    *,
    recorded: dict[str, Any] | None = None,
    figures: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Commit a model of no weights. ``recorded``: its settings where the config names no such training. ``figures``:
    what its record tells of the run; default: two processes on CPUs."""
    artifact = Workspace(config.workspace).artifact(name)
    made_with = settings_of(name, config) if recorded is None else recorded
    node = config.nodes.get(name)
    read = [n for n in ((node.init_node, node.teacher_node) if node else ()) if n]
    settings = {"config": made_with, "artifacts": dict.fromkeys(read, "0" * 16)}
    fingerprint = Fingerprint.of(settings, {"name": name})
    files.write_bytes(files.join(artifact.folder(fingerprint), "metrics.jsonl"), metrics(40, **options))
    files.write_bytes(files.join(artifact.folder(fingerprint), "final.json"), b"{}")
    told = {"steps": 40, **({"num_processes": 2, "device": "cpu"} if figures is None else figures)}
    artifact.commit(fingerprint, settings, told, names=("metrics.jsonl",), seconds=90.0)


def begin(config: RunConfig, name: str, step: int) -> None:
    """Leave the metrics of a run that has not committed its model."""
    artifact = Workspace(config.workspace).artifact(name)
    folder = artifact.folder(Fingerprint("b" * 16, "c" * 16))
    files.write_bytes(files.join(folder, "metrics.jsonl"), metrics(step))


def evaluation(model: str, top1: float, **values: Any) -> dict[str, Any]:
    row = {"model": model, "input": "protected", "image_size": 32, "weights": "last", "num_images": 400, "top1": top1}
    return {**row, "top5": 1.0, "num_parameters": 5_000_000, **values}


def evaluate(config: RunConfig, *rows: dict[str, Any], part: str = "protected") -> None:
    import pyarrow as pa

    store = Workspace(config.workspace).tables["evaluations"]
    table = pa.Table.from_pylist(list(rows), EVALUATIONS.row_schema())
    store.commit([store.write(table, {"part": part}, Fingerprint.of({"version": 1}, {}), {"version": 1}, {})])
