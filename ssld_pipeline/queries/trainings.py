"""The trainings of a workspace: what each is made of, how far it is, and how good its model is; as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ssld_pipeline.queries.metrics import Record as Row
from ssld_pipeline.queries.metrics import images_per_s, records, was_resumed
from ssld_pipeline.queries.sql import rows_of
from ssld_pipeline.sql_text import literal
from ssld_pipeline.store import files

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.config.training import TrainingConfig
    from ssld_pipeline.store.artifacts import ArtifactStore, Record
    from ssld_pipeline.store.workspace import Workspace

FIT = "fit_teacher"
_METRICS = "metrics.jsonl"
_FINAL = "final.json"
"""A training leaves it in its folder when its model is done."""


@dataclass(frozen=True)
class Training:
    """A training that the config names, or whose model is in the workspace.

    A finished model is described by its record: ``network``, ``objective``, ``teacher``. The record does not tell the
    ``data``, nor which training a digest belongs to: these are the config's. What nobody tells is None.

    ``step``: steps done of a run that has begun and has not committed its model, else None; such a run may have been
    stopped. ``made_at``: seconds since 1970, None where no model is committed. ``process_seconds``: seconds of the run
    that committed the model, times its processes. ``num_gpus``: of the model that is there; 0 on CPUs, and where the
    record does not tell. ``is_resumed``: that run went on from a checkpoint, so that the seconds before it are not
    counted. ``together``: the other trainings of the same pass, whose seconds are the same seconds. ``starts_from``:
    the training whose weights it starts from; ``start``: that, or a weights file. ``rows``: of metrics.jsonl, of the
    model or, before there is one, of the run.
    """

    name: str
    is_in_config: bool
    network: str | None = None
    start: str | None = None
    starts_from: str | None = None
    data: str | None = None
    teacher: str | None = None
    objective: str | None = None
    image_size: int | None = None
    together: tuple[str, ...] = ()
    step: int | None = None
    steps: int | None = None
    images_per_s: float | None = None
    process_seconds: float | None = None
    num_gpus: int = 0
    is_resumed: bool = False
    made_at: float | None = None
    rows: Sequence[Row] = ()

    @property
    def state(self) -> str:
        """made, made again (a model is there, and another run has begun), training, or nothing yet."""
        if self.made_at is not None:
            return "made" if self.step is None else "made again"
        return "nothing yet" if self.step is None else "training"

    @property
    def evaluated_as(self) -> str:
        """Its name in ``evaluations``."""
        return "teacher" if self.name == FIT else self.name


def training_names(workspace: Workspace, config: RunConfig) -> tuple[str, ...]:
    """fit_teacher, the trainings of the config in the order in which they run, then models that it no longer names."""
    fit = [FIT] if config.teacher.fit else []
    return tuple(dict.fromkeys([*fit, *config.ordered_nodes(), *workspace.models()]))


def trainings(workspace: Workspace, config: RunConfig) -> list[Training]:
    """All of them, in this order. Raises DamagedFile where a record or metrics are not what was written."""
    return [training(workspace, config, name) for name in training_names(workspace, config)]


def training(workspace: Workspace, config: RunConfig, name: str) -> Training:
    """One of them. Raises DamagedFile where its record or its metrics are not what was written."""
    artifact = workspace.artifact(name)
    record = artifact.record()
    under_way = _under_way(artifact, record)
    planned = _of_config(config, name)
    if record is None:
        rows = under_way or []
        return Training(name, **planned, step=_step(under_way), rows=rows, images_per_s=images_per_s(rows))
    rows = records(artifact.read(record, _METRICS).decode())
    told = {
        **planned,
        **_of_record(config, name, record),
        "step": _step(under_way),
        "steps": record.figures.get("steps"),
        "images_per_s": images_per_s(rows),
        "process_seconds": _process_seconds(record),
        "num_gpus": record.figures.get("num_processes", 0) if record.figures.get("device") == "cuda" else 0,
        "is_resumed": was_resumed(rows),
        "made_at": record.committed_at,
    }
    return Training(name, **told, rows=rows)


def _under_way(artifact: ArtifactStore, record: Record | None) -> list[Row] | None:
    """Metrics of a run that has not committed its model; of several the one that came furthest. Folders of models that
    were replaced, and of runs that were given up before the present model was made, stay and do not count."""
    found = files.list_files(artifact.uri)
    folders = [path.removesuffix(f"/{_METRICS}") for path in found if path.endswith(f"/{_METRICS}")]
    runs = []
    for folder in folders:
        uri = files.join(artifact.uri, folder, _METRICS)
        is_past = record and (
            f"{folder}/{_FINAL}" in found or (files.changed_at(uri) or math.inf) < record.committed_at
        )
        if not is_past:
            runs.append(records(files.read_bytes(uri).decode()))
    return max(runs, key=lambda rows: _step(rows) or 0, default=None)


def _step(rows: Sequence[Row] | None) -> int | None:
    return None if rows is None else int(rows[-1]["step"]) if rows else 0


def _of_config(config: RunConfig, name: str) -> dict[str, Any]:
    """What the config says of a training, whether it has run or not."""
    if name == FIT and (fit := config.teacher.fit):
        return {
            "is_in_config": True,
            "network": config.teacher.model,
            "start": _file_name(config.teacher.weights),
            "data": "teacher" if fit.data else "labeled",
            "objective": "hard_ce (rows all)",
            "image_size": fit.image_size,
        }
    if name not in config.nodes:
        return {"is_in_config": False}
    from ssld_pipeline.config.graph import groups

    node, network = config.nodes[name], config.network_of(name)
    group = next(group for group in groups(config.nodes) if name in group)
    return {
        "is_in_config": True,
        "network": network.model if network else None,
        "start": node.init_node or _start_file(node, config, name),
        "starts_from": node.init_node,
        "data": node.data,
        "teacher": node.teacher,
        "objective": objective_in_short([term.of_fingerprint() for term in node.objective]),
        "image_size": node.image_size,
        "together": tuple(other for other in group if other != name),
    }


def _start_file(node: TrainingConfig, config: RunConfig, name: str) -> str | None:
    network = config.network_of(name)
    return _file_name(node.init_file or (network.weights if network else None))


def _file_name(path: str | None) -> str | None:
    return path.rsplit("/", 1)[-1] if path else None


def _of_record(config: RunConfig, name: str, record: Record) -> dict[str, Any]:
    """What a model was made with, in place of what the config says today; a model of an earlier version has one
    section, ``train``."""
    made_with = record.settings.get("config", {})
    if name == FIT:
        return {"network": made_with.get("teacher", {}).get("model")}
    own = recipe_of(record)
    found: dict[str, Any] = {
        "network": made_with.get("student", {}).get("model"),
        "objective": objective_in_short(own.get("objective") or [_one_term(own)]),
        "image_size": own.get("image_size"),
        "teacher": _teacher(config, name, record),
    }
    if name not in config.nodes:
        found["start"] = found["starts_from"] = _only_start(record)
    return found


def recipe_of(record: Record) -> dict[str, Any]:
    """The settings of the training itself, as recorded by this version or an earlier one."""
    made_with = record.settings.get("config", {})
    return dict(made_with.get("training") or made_with.get("train") or made_with.get("fit") or {})


def _one_term(own: Mapping[str, Any]) -> dict[str, Any]:
    """The objective of earlier versions."""
    loss, temperature = own.get("loss", "?"), own.get("temperature", 1.0)
    if loss == "ce":
        return {"term": "hard_ce", "rows": "all"}
    return {"term": loss} if temperature == 1 else {"term": loss, "temperature": temperature}


def objective_in_short(terms: Sequence[Mapping[str, Any]]) -> str:
    """Such as ``kl (temperature 2) + 0.3 hard_ce``. ``terms``: names, weights and settings not at their defaults."""
    shown = []
    for term in terms:
        weight, more = term.get("weight", 1.0), {k: v for k, v in term.items() if k not in ("term", "weight")}
        settings = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in more.items()
        )
        shown.append(
            (f"{weight:g} " if weight != 1 else "") + str(term["term"]) + (f" ({settings})" if settings else "")
        )
    return " + ".join(shown)


def _teacher(config: RunConfig, name: str, record: Record) -> str | None:
    """As in a config: teacher, stored, the name of a training; else the network that taught; None: nobody."""
    own, made_with = recipe_of(record), record.settings.get("config", {})
    kind = None if own.get("loss") == "ce" else own.get("teacher")
    if kind != "online":
        return kind
    if not _is_taught_by_training(made_with):
        return "teacher"
    node = config.nodes.get(name)
    if node and node.teacher_node in record.settings.get("artifacts", {}):
        return node.teacher_node
    return str(made_with["teacher"]["model"])


def _is_taught_by_training(made_with: Mapping[str, Any]) -> bool:
    """The top-level teacher has an evaluation view, a training that teaches has none."""
    return "teacher" in made_with and "crop_pct" not in made_with["teacher"]


def _only_start(record: Record) -> str | None:
    """The training whose model it started from, where the record leaves no doubt."""
    others = [name for name in record.settings.get("artifacts", {}) if name != FIT]
    is_taught = _is_taught_by_training(record.settings.get("config", {}))
    return others[0] if len(others) == 1 and not is_taught else None


def _process_seconds(record: Record) -> float | None:
    """Seconds times processes; None where the record does not tell how many there were. Earlier versions recorded how
    many images of a batch each of them had."""
    num_processes = record.figures.get("num_processes")
    share, batch_size = record.figures.get("images_per_process"), recipe_of(record).get("batch_size")
    if num_processes is None and share and batch_size:
        num_processes = batch_size / share
    return None if num_processes is None else record.seconds * num_processes


def training_rows(found: Sequence[Training], evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a training: its name, state, step, what it is made of, and ``top1`` by protected input."""
    return [
        {
            "training": one.name,
            "state": one.state,
            "step": one.step if one.step is not None else one.steps,
            "network": one.network,
            "start": one.start,
            "data": one.data,
            "teacher": one.teacher,
            "objective": one.objective,
            "top1": _top1(one, evaluations),
        }
        for one in found
    ]


def _top1(one: Training, evaluations: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By input, and by size where a model was measured at several."""
    own = [row for row in evaluations if row["model"] == one.evaluated_as]
    sizes = {row["image_size"] for row in own}
    return {row["input"] if len(sizes) == 1 else f"{row['input']} {row['image_size']} px": row["top1"] for row in own}


def inspect_training(workspace: Workspace, config: RunConfig, name: str) -> dict[str, Any]:
    """``training`` (see ``Training``), ``settings`` and ``figures`` as recorded (empty before there is a model),
    ``metrics`` (rows) and ``evaluations`` (rows)."""
    found, record = training(workspace, config, name), workspace.artifact(name).record()
    facts = {key: value for key, value in asdict(found).items() if key != "rows"}
    return {
        "training": {**facts, "state": found.state},
        "settings": record.settings if record else {},
        "figures": {"seconds": record.seconds, **record.figures} if record else {},
        "metrics": list(found.rows),
        "evaluations": rows_of(
            workspace,
            f"SELECT * EXCLUDE (part) FROM evaluations WHERE model = {literal(found.evaluated_as)} ORDER BY ALL",
        ),
    }
