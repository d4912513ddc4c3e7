"""Labels a sample of committed soft_labels again and compares: what is stored is what the run's teacher says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.contracts import CATALOG, SOFT_LABELS
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.soft_label import ROUNDING_STEP, largest_difference
from ssld_pipeline.pipeline import stage_of
from ssld_pipeline.runner.class_guard import require_same_classes
from ssld_pipeline.runner.state import State
from ssld_pipeline.runner.survey import FileDigests, Survey, class_names
from ssld_pipeline.runner.units import same_but_config, settings_payload
from ssld_pipeline.runner.work import WorkerSpec
from ssld_pipeline.stages.stage import PartStage
from ssld_pipeline.store.fingerprints import explain_change
from ssld_pipeline.store.workspace import Workspace
from ssld_pipeline.training.views import REPLAY_COLUMNS

# float32 on a CPU gives the same to 1e-5 whatever the batch. With the ten mantissa bits of a GPU's TF32 (emulated), the
# probabilities of a MobileNetV2 on 31 photographs moved by 0.0008 (median of the largest) and at most 0.003; with
# bfloat16 by 0.03 and at most 0.28, so that such labels can be compared only where they are made with it again.
_TOLERANCE, _AMP_TOLERANCE = 0.01, 0.05
_ENTROPY_FACTOR = 10  # nats: a change of p changes the entropy by about p |ln p|, summed over the classes


_BFLOAT16 = (
    "the labels may have been made with bfloat16 on a GPU (placement.amp), and were made again in float32 on a CPU, "
    "which alone moves probabilities by 0.03 and more; say verify --recompute on a machine with a GPU"
)


@dataclass(frozen=True)
class RowDifference:
    """``by``: the largest difference of a probability; null where the image could not be labelled again."""

    image_id: str
    view: int
    by: float | None
    why: str


@dataclass(frozen=True)
class Recomputed:
    """``largest``, ``median``: of the rows' largest differences of a probability, rounding aside."""

    num_rows: int
    num_stored: int
    seed: int
    device: str
    tolerance: float
    largest: float
    median: float
    seconds: float
    differences: tuple[RowDifference, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "num_different": len(self.differences)}


def recompute_labels(config: RunConfig, num_rows: int, seed: int = 0, tolerance: float | None = None) -> Recomputed:
    """``num_rows`` rows of soft_labels, drawn by ``seed``, beside what the teacher says of the same views now.

    ``tolerance``: of a probability, beyond the step to which it was rounded; null: 0.01, with placement.amp 0.05.
    UserError where nothing is labelled yet, or the stored labels were made with other settings than the config's.
    """
    started = time.monotonic()
    workspace = Workspace(config.workspace)
    require_same_classes(config, workspace)
    state = State(_survey_without_inputs(config), workspace, FileDigests(config.workspace))
    _require_comparable(state)
    stored, images, sample = _drawn(workspace, num_rows, seed, config.label.views)
    device = _device(config)
    fresh, failed = _labelled_again(state, stored, images, sample, device)
    allowed = tolerance if tolerance is not None else _AMP_TOLERANCE if config.placement.amp else _TOLERANCE
    found = [(row, _compare(row, fresh.get(_key(row)), failed, allowed)) for row in _rows(stored, sample)]
    sizes = sorted(by for _, (by, _) in found if by is not None)
    differences = tuple(RowDifference(*_key(row), by, why) for row, (by, why) in found if why)
    return Recomputed(
        num_rows=len(found),
        num_stored=sum(part.num_rows for part in workspace.tables["soft_labels"].parts().values()),
        seed=seed,
        device=device,
        tolerance=allowed,
        largest=sizes[-1] if sizes else 0.0,
        median=sizes[len(sizes) // 2] if sizes else 0.0,
        seconds=time.monotonic() - started,
        note=_BFLOAT16 if differences and device == "cpu" and _is_amp(workspace) else "",
        differences=tuple(sorted(differences, key=lambda d: (d.by is not None, -(d.by or 0.0), d.image_id, d.view))),
    )


def _survey_without_inputs(config: RunConfig) -> Survey:
    return Survey(config, class_names(config), (), {}, {})


def _require_comparable(state: State) -> None:
    stage = stage_of(state.config, "label", PartStage)
    parts = list(state.workspace.tables["soft_labels"].parts().values())
    if not parts:
        raise UserError("verify --recompute: soft_labels is empty; label first: ssld run CONFIG --until label")
    wanted = settings_payload(stage, state)
    for part in {part.fingerprint.settings: part for part in parts}.values():
        committed = state.settings_of("soft_labels", part)
        if "exact_tail" not in committed["config"]:  # only probabilities are compared
            wanted = {**wanted, "config": {k: v for k, v in wanted["config"].items() if k != "exact_tail"}}
        if not (same_but_config(committed, wanted) and stage.covers(committed["config"], _least(wanted, committed))):
            raise UserError(
                f"verify --recompute: labels were made otherwise than the config says "
                f"({'; '.join(explain_change(committed, wanted))}). Give the config they were made with, or bring them "
                f"up to date first: ssld run CONFIG --until label"
            )


def _least(wanted: Mapping[str, Any], committed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``wanted`` with as few classes and views as can be compared."""
    least = {**wanted["config"], "num_kept": 1}
    if "views" in least and "views" in committed["config"]:
        return {**least, "views": 1}
    return {name: value for name, value in least.items() if name not in ("views", "view_recipe")}


def _drawn(workspace: Workspace, num_rows: int, seed: int, num_views: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """All rows of the drawn images, their catalog rows, and the drawn (image_id, view) themselves."""
    with workspace.connect("soft_labels", "catalog") as tables:
        tables.execute(
            """CREATE TEMP TABLE drawn AS SELECT image_id, view FROM soft_labels WHERE view <= ?
               ORDER BY md5(concat_ws(' ', ?::BIGINT, view, image_id)) LIMIT ?""",
            [num_views, seed, num_rows],
        )
        stored = tables.sql("SELECT * FROM soft_labels SEMI JOIN drawn USING (image_id) ORDER BY image_id, view")
        images = tables.sql("SELECT * FROM catalog SEMI JOIN drawn USING (image_id) ORDER BY image_id")
        return (
            stored.to_arrow_table().cast(SOFT_LABELS.schema()),
            images.to_arrow_table().cast(CATALOG.schema()),
            tables.sql("FROM drawn").to_arrow_table(),
        )


def _labelled_again(
    state: State, stored: pa.Table, images: pa.Table, sample: pa.Table, device: str
) -> tuple[dict[tuple[str, int], dict[str, Any]], dict[str, str]]:
    """Rows by image and view, and why images could not be used. The label stage itself does it: it is told that the
    rows which were not drawn are there already."""
    num_kept = pc.max(pc.list_value_length(stored["class_ids"])).as_py() or 1
    views = pc.max(stored["view"]).as_py() or 0
    config = state.config.model_copy(
        update={"label": state.config.label.model_copy(update={"num_kept": num_kept, "views": views})}
    )
    spec = WorkerSpec("label", config, state.survey.classes, {}, os.cpu_count() or 1, device)
    stage = stage_of(config, "label", PartStage)
    drawn = set(zip(sample["image_id"].to_pylist(), sample["view"].to_pylist(), strict=True))
    keys = zip(stored["image_id"].to_pylist(), stored["view"].to_pylist(), strict=True)
    others = stored.filter(pa.array([key not in drawn for key in keys], pa.bool_()))
    result = stage.open(spec.setup())(images, others)
    return {_key(row): row for row in _rows(result.rows, sample)}, {r.image_id: r.reason for r in result.rejects}


def _rows(rows: pa.Table, sample: pa.Table) -> Iterable[dict[str, Any]]:
    """Those of ``rows`` that were drawn."""
    drawn = set(zip(sample["image_id"].to_pylist(), sample["view"].to_pylist(), strict=True))
    return [row for row in rows.to_pylist() if _key(row) in drawn]


def _key(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["image_id"], row["view"]


def _compare(
    stored: Mapping[str, Any], fresh: Mapping[str, Any] | None, failed: Mapping[str, str], tolerance: float
) -> tuple[float | None, str]:
    """The largest difference of a probability, and why the row does not hold; empty where it does."""
    if fresh is None:
        reason = failed.get(stored["image_id"], "it is not in the catalog")
        return None, f"the image cannot be labelled again: {reason}"
    by = largest_difference(stored["class_ids"], stored["probs"], fresh["class_ids"], fresh["probs"])
    by = max(by, abs(stored["top1_prob"] - fresh["top1_prob"]) - ROUNDING_STEP * stored["top1_prob"])
    reasons = []
    if by > tolerance:
        classes = f"class {stored['top1_class']} with {stored['top1_prob']:.4f}"
        reasons.append(
            f"a probability differs by {by:.4f}; stored: {classes}, now: class {fresh['top1_class']} with "
            f"{fresh['top1_prob']:.4f}"
        )
    if (entropy := abs(stored["entropy"] - fresh["entropy"])) > _ENTROPY_FACTOR * tolerance:
        reasons.append(f"the entropy differs by {entropy:.4f} nats")
    changed = [name for name in REPLAY_COLUMNS if stored[name] != fresh[name]]
    if changed:
        reasons.append(f"another view: {', '.join(f'{n} {stored[n]:g} -> {fresh[n]:g}' for n in changed)}")
    return by, "; ".join(reasons)


def _is_amp(workspace: Workspace) -> bool:
    """Whether some labels were made where placement.amp was set."""
    table = workspace.tables["soft_labels"]
    parts = {part.fingerprint.settings: part for part in table.parts().values()}
    return any(table.notes_of(part).get("teacher", {}).get("amp") for part in parts.values())


def _device(config: RunConfig) -> str:
    import torch

    return "cuda" if config.placement.use_gpu is not False and torch.cuda.is_available() else "cpu"
