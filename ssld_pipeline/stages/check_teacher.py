"""check_teacher: measures the teacher on labelled images and stops the run where it cannot tell the classes.

A teacher with random weights, another class order or other preprocessing labels a pool without complaint, and the
student that is distilled from it ends at chance: the commonest grievance of SSLD's users. A minute here precedes days.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.digests import hash64
from ssld_pipeline.stages.stage import ArtifactStage, Reject, Setup
from ssld_pipeline.stages.teacher import teacher_settings, teacher_spec

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig

MAX_IMAGES = 2000
_ROLES = ("labeled", "teacher")


def settings(config: RunConfig) -> dict[str, Any]:
    return {**teacher_settings(config), "min_top1": config.teacher.min_top1}


def build(setup: Setup, rows: pa.Table, folder: Path) -> tuple[dict[str, Any], list[Reject]]:
    """Writes ``metrics.json``: num_images, top1 and top5 (shares; null where nothing was measured), chance, min_top1.

    ``rows`` are catalog rows; those with a label count. UserError where top-1 is below ``teacher.min_top1``, or where
    there is nothing to measure and a limit is set.
    """
    min_top1, num_classes = setup.config.teacher.min_top1, len(setup.classes)
    rejects: list[Reject] = []
    figures: dict[str, Any] = {"num_images": 0, "top1": None, "top5": None}
    chosen = sample(rows, MAX_IMAGES)
    if chosen.num_rows:
        figures = _measure(setup, chosen, rejects)
    if figures["num_images"] == 0 and min_top1 > 0:
        raise UserError(
            f"the teacher cannot be checked: none of the {rows.num_rows} images at hand has a label and can be read; "
            f"give inputs.labeled a labelled input, or set teacher.min_top1 to 0 to label unchecked"
        )
    if figures["num_images"] and figures["top1"] < min_top1:
        raise UserError(_too_weak(setup.config, figures, num_classes))
    figures |= {"chance": 1 / num_classes, "min_top1": min_top1}
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures, rejects


def sample(rows: pa.Table, count: int) -> pa.Table:
    """At most ``count`` labelled rows, as many of each class as of any other while they last, drawn by image_id.

    The order of ``rows`` and the rows of other roles do not matter, so neither does how the inputs were cut into parts.
    """
    import numpy as np

    class_ids = np.array([-1 if c is None else c for c in rows["class_id"].to_pylist()], dtype=np.int64)
    labelled = np.flatnonzero((class_ids >= 0) & np.isin(np.array(rows["role"].to_pylist(), dtype=str), _ROLES))
    drawn = np.array([hash64(i) for i in rows["image_id"].take(labelled).to_pylist()], dtype=np.uint64)
    by_class = np.lexsort((drawn, class_ids[labelled]))
    _, starts, sizes = np.unique(class_ids[labelled][by_class], return_index=True, return_counts=True)
    rank = np.empty(len(labelled), dtype=np.int64)
    rank[by_class] = np.arange(len(labelled)) - np.repeat(starts, sizes)
    return rows.take(labelled[np.lexsort((drawn, rank))[:count]])


def _measure(setup: Setup, rows: pa.Table, rejects: list[Reject]) -> dict[str, Any]:
    from ssld_pipeline.models.predict import open_predictor
    from ssld_pipeline.training.evaluate import evaluate

    teacher, placement = setup.config.teacher, setup.config.placement
    predictor = open_predictor(teacher_spec(setup), setup.device, num_threads=setup.num_threads)
    num_readers = max(placement.loader_threads, setup.num_threads)
    found = evaluate(predictor, rows, teacher.image_size, teacher.crop_pct, num_readers)
    rejects += found.pop("rejects")
    return found if found["num_images"] else {"num_images": 0, "top1": None, "top5": None}


def _too_weak(config: RunConfig, figures: dict[str, Any], num_classes: int) -> str:
    weights = "the weights that fit_teacher made" if config.teacher.fit else f"the weights {config.teacher.weights}"
    return (
        f"teacher {config.teacher.model} with {weights} has a top-1 accuracy of {figures['top1']:.3f} on "
        f"{figures['num_images']} labelled images (top-5 {figures['top5']:.3f}), below teacher.min_top1 = "
        f"{config.teacher.min_top1}; chance is {1 / num_classes:.3g} with {num_classes} classes. Near chance: the "
        f"weights were never trained or belong to another model, or the class list is in another order than the "
        f"teacher's classes. Above it: compare teacher.mean, std, image_size and crop_pct with the weights' source, "
        f"and look at the labels. If the teacher is merely weak: finetune it (teacher.fit) or lower teacher.min_top1"
    )


STAGE = ArtifactStage(
    name="check_teacher",
    version=2,
    reads=("catalog",),
    settings=settings,
    build=build,
    artifacts=("fit_teacher",),
    networks=("teacher",),
    uses_classes=True,
    roles=lambda config: _ROLES,
)
