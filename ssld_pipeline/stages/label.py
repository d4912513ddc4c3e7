"""label: what the teacher says of every pool image that is no duplicate, in the evaluation view."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ssld_pipeline.contracts import SOFT_LABELS
from ssld_pipeline.settings import Settings
from ssld_pipeline.stages.stage import PartResult, PartStage, Reject, Setup
from ssld_pipeline.stages.teacher import teacher_settings, teacher_spec

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config import RunConfig
    from ssld_pipeline.kernels.soft_label import SoftLabels
    from ssld_pipeline.models.predict import Predictor
    from ssld_pipeline.training.predictions import Predictions


class LabelConfig(Settings):
    num_kept: int = Field(20, gt=0)
    """Most probable classes stored per image; the rest is summed into tail_prob."""
    max_reject_share: float = Field(0.05, ge=0, le=1)
    """A part that loses a larger share of its images than this (and more than 10) is not committed."""


def settings(config: RunConfig) -> dict[str, Any]:
    return {**teacher_settings(config), "num_kept": config.label.num_kept}


def open_label(setup: Setup) -> Callable[[pa.Table], PartResult]:
    """The function from catalog rows, duplicates and rejects already taken out, to their soft labels.

    Loads the teacher: UserError where its weights do not fit. A label does not depend on which images are labelled with
    it: probabilities agree to 1e-5 whatever the batch, which rounding can turn into one step of 2^-10 of the value.
    """
    from ssld_pipeline.models.predict import open_predictor

    config = setup.config
    predictor = open_predictor(
        teacher_spec(setup), setup.device, amp=config.placement.amp, num_threads=setup.num_threads
    )

    def label(rows: pa.Table) -> PartResult:
        return _label(rows, predictor, config)

    return label


def _label(rows: pa.Table, predictor: Predictor, config: RunConfig) -> PartResult:
    import pyarrow as pa

    from ssld_pipeline.kernels.soft_label import from_probs
    from ssld_pipeline.training.predictions import predict_rows

    rejects: list[Reject] = []
    teacher, num_threads = config.teacher, config.placement.loader_threads
    tables = [_schema().empty_table()]
    for batch in predict_rows(rows, predictor, teacher.image_size, teacher.crop_pct, num_threads, rejects):
        image_ids = rows["image_id"].take(batch.numbers).to_pylist()
        tables.append(_table(image_ids, batch, from_probs(batch.probs, config.label.num_kept)))
    return PartResult(pa.concat_tables(tables).combine_chunks(), rejects)


def _schema() -> pa.Schema:
    """That of ``soft_labels`` without ``part``, which the runner adds."""
    import pyarrow as pa

    return pa.schema([field for field in SOFT_LABELS.schema() if field.name != "part"])


def _table(image_ids: list[str], batch: Predictions, labels: SoftLabels) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    num_rows, num_kept = labels.class_ids.shape
    starts = np.arange(num_rows + 1, dtype=np.int32) * num_kept
    columns = {
        "image_id": image_ids,
        "view": np.zeros(num_rows, np.int32),  # the evaluation view
        "top1_class": labels.top1_class,
        "top1_prob": labels.top1_prob,
        "entropy": labels.entropy,
        "class_ids": pa.ListArray.from_arrays(starts, labels.class_ids.ravel()),
        "probs": pa.ListArray.from_arrays(starts, labels.probs.ravel()),
        "tail_prob": labels.tail_prob,
        **dict(zip(("crop_left", "crop_top", "crop_width", "crop_height"), batch.boxes.T, strict=True)),
        "flipped": np.zeros(num_rows, bool),
    }
    return pa.table(columns, schema=_schema())


STAGE = PartStage(
    name="label",
    version=1,
    table="soft_labels",
    reads=("catalog", "duplicates"),
    settings=settings,
    open=open_label,
    artifacts=("fit_teacher",),
    networks=("teacher",),
    uses_classes=True,
    roles=lambda config: ("pool",),
    section="label",
)
