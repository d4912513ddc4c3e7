"""check_teacher: measures the teacher on labelled images and stops the run where it cannot tell the classes.

A teacher with random weights, another class order or other preprocessing labels a pool without complaint, and the
student that is distilled from it ends at chance: the commonest grievance of SSLD's users. A minute here precedes days.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.errors import UserError
from ssld_pipeline.stages.hold_out import MAX_IMAGES, labelled_rows, read_held_out, sample
from ssld_pipeline.stages.stage import ArtifactStage, Reject, Setup
from ssld_pipeline.stages.teacher import teacher_settings, teacher_spec

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig

_MEASURED_ON = {
    "held_out": "labelled images that the teacher was not fitted on",
    "fitted": "labelled images that the teacher was fitted on, so that it is too high (teacher.fit.held_out is 0)",
    "labelled": "labelled images, which the teacher's weights may have been trained on elsewhere",
}


_WORTH_A_WARNING = 0.02
"""A drop of top-1 by which a teacher in train mode is worse than at rest."""


def settings(config: RunConfig) -> dict[str, Any]:
    found = {**teacher_settings(config), "min_top1": config.teacher.min_top1}
    return found | ({"norm_batches": batches} if (batches := list(norm_batches(config))) else {})


def norm_batches(config: RunConfig) -> tuple[int, ...]:
    """Images per batch norm statistic of the trainings that the teacher teaches with batch norm in train mode."""
    teaching = [node for node in config.nodes.values() if node.teacher == "teacher"]
    return tuple(sorted({node.images_per_norm for node in teaching if node.teacher_batch_norm == "train"}))


def build(setup: Setup, rows: pa.Table, folder: Path) -> tuple[dict[str, Any], list[Reject]]:
    """Writes ``metrics.json``: num_images, top1 and top5 (shares; null where nothing was measured), chance, min_top1,
    measured_on (held_out, fitted or labelled: see ``_MEASURED_ON``), ``top1_in_norm_batches_of_N``: with batch norm in
    train mode, as it teaches, and ``warnings``: where that is much worse.

    ``rows`` are catalog rows; those with a label count, and only held-out ones where there are any. UserError where
    top-1 is below ``teacher.min_top1``, or where there is nothing to measure and a limit is set.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    min_top1, num_classes = setup.config.teacher.min_top1, len(setup.classes)
    rejects: list[Reject] = []
    figures: dict[str, Any] = {"num_images": 0, "top1": None, "top5": None}
    measured_on = "labelled" if setup.config.teacher.fit is None else "fitted"
    labelled = labelled_rows(rows)
    if "hold_out" in setup.artifacts:
        held_out, _ = read_held_out(setup.artifacts["hold_out"])
        if held_out:
            labelled = labelled.filter(pc.is_in(labelled["image_id"], pa.array(held_out, pa.string())))
            measured_on = "held_out"
    chosen = sample(labelled, MAX_IMAGES)
    if chosen.num_rows:
        figures = _measure(setup, chosen, rejects)
    if figures["num_images"] == 0 and min_top1 > 0:
        raise UserError(
            f"the teacher cannot be checked: none of the {rows.num_rows} images at hand has a label and can be read; "
            f"give inputs.labeled a labelled input, or set teacher.min_top1 to 0 to label unchecked"
        )
    if figures["num_images"] and figures["top1"] < min_top1:
        raise UserError(_too_weak(setup.config, figures, num_classes, measured_on))
    if figures["num_images"]:
        figures |= _measure_teaching(setup, chosen, figures["top1"])
    figures |= {"chance": 1 / num_classes, "min_top1": min_top1, "measured_on": measured_on}
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures, rejects


def _measure(setup: Setup, rows: pa.Table, rejects: list[Reject]) -> dict[str, Any]:
    from ssld_pipeline.models.predict import open_predictor
    from ssld_pipeline.training.evaluate import evaluate

    teacher, placement = setup.config.teacher, setup.config.placement
    predictor = open_predictor(teacher_spec(setup), setup.device, num_threads=setup.num_threads)
    num_readers = max(placement.loader_threads, setup.num_threads)
    found = evaluate(predictor, rows, teacher.image_size, teacher.crop_pct, num_readers)
    rejects += found.pop("rejects")
    return found if found["num_images"] else {"num_images": 0, "top1": None, "top5": None}


def _measure_teaching(setup: Setup, rows: pa.Table, at_rest: float) -> dict[str, Any]:
    """Top-1 of the teacher as it teaches, and a warning where it is much lower than ``at_rest``."""
    from ssld_pipeline.models.predict import open_predictor
    from ssld_pipeline.training.evaluate import evaluate_in_norm_batches, has_batch_norm

    teacher, placement = setup.config.teacher, setup.config.placement
    found: dict[str, Any] = {}
    warnings = []
    for norm_batch in norm_batches(setup.config):
        predictor = open_predictor(
            teacher_spec(setup), setup.device, batch_size=norm_batch, num_threads=setup.num_threads
        )
        if not has_batch_norm(predictor.model):
            return {}
        num_readers = max(placement.loader_threads, setup.num_threads)
        top1 = evaluate_in_norm_batches(predictor, rows, teacher.image_size, teacher.crop_pct, num_readers)
        if top1 is None:
            continue
        found[f"top1_in_norm_batches_of_{norm_batch}"] = top1
        if at_rest - top1 > _WORTH_A_WARNING:
            warnings.append(
                f"the teacher's top-1 is {at_rest:.3f} at rest and {top1:.3f} with batch norm in train mode and "
                f"norm_batch {norm_batch}, as it teaches; consider teacher_batch_norm: eval, or a larger norm_batch"
            )
    return {**found, "warnings": warnings}


def _too_weak(config: RunConfig, figures: dict[str, Any], num_classes: int, measured_on: str) -> str:
    weights = "the weights that fit_teacher made" if config.teacher.fit else f"the weights {config.teacher.weights}"
    return (
        f"teacher {config.teacher.model} with {weights} has a top-1 accuracy of {figures['top1']:.3f} on "
        f"{figures['num_images']} {_MEASURED_ON[measured_on]} (top-5 {figures['top5']:.3f}), below teacher.min_top1 = "
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
    artifacts=("fit_teacher", "hold_out"),
    networks=("teacher",),
    uses_classes=True,
    roles=lambda config: TRAINED_ON_ROLES,
    reasons=lambda config: {"norm_batches": f"is measured as it teaches, in norm batches of {norm_batches(config)}"},
)
