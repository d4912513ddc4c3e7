"""label: what the teacher says of every pool image that is no duplicate, in the evaluation view and in augmented ones.

The images of the labelled inputs are seen in the augmented views alone, and only where training replays them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import SOFT_LABELS
from ssld_pipeline.stages.stage import Json, PartResult, PartStage, Reject, Setup
from ssld_pipeline.stages.teacher import teacher_settings, teacher_spec
from ssld_pipeline.training.recipe import Recipe

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.kernels.soft_label import SoftLabels
    from ssld_pipeline.models.predict import Predictor
    from ssld_pipeline.training.predictions import MapAhead, Predictions

_GROWS = ("num_kept", "views")
_EXACT_TAIL = "exact_tail"
"""Recorded where all tails of a part are exact. Older parts hold 1 minus the sum of the rounded probabilities, which
serves every loss but symmetric_kl."""


def settings(config: RunConfig) -> dict[str, Any]:
    label = config.label
    found = {**teacher_settings(config), "num_kept": label.num_kept, _EXACT_TAIL: True}
    if label.views:
        found["views"] = label.views
        found["view_recipe"] = {
            "min_crop_area": label.view_min_crop_area,
            "jitter": label.view_jitter,
            "seed": label.view_seed,
        }
    return found


def covers(committed: Json, wanted: Json) -> bool:
    """Whether labels made with the settings ``committed`` hold all that is ``wanted``: as many classes and views, or
    more, and exact tails."""
    same_views = "views" not in wanted or committed.get("view_recipe") == wanted["view_recipe"]
    enough = all(committed.get(name, 0) >= wanted.get(name, 0) for name in _GROWS)
    return _same_teacher(committed, wanted) and same_views and enough and _tails_serve(committed, wanted)


def needed(committed: Json, wanted: Json, config: RunConfig) -> Json:
    """``wanted`` without exact tails where labels that serve, or are kept, have rounded ones and no training needs
    better: millions of images are not labelled again for them."""
    is_kept = _same_teacher(committed, wanted) and committed["num_kept"] >= wanted["num_kept"]
    if _EXACT_TAIL in committed or not is_kept or config.needs_exact_tails():
        return wanted
    return {name: value for name, value in wanted.items() if name != _EXACT_TAIL}


def reasons(config: RunConfig) -> dict[str, str]:
    names = config.needs_exact_tails()
    learn = f"training {names[0]} learns" if len(names) == 1 else f"trainings {', '.join(names)} learn"
    return {_EXACT_TAIL: f"stored tails are rounded; {learn} symmetric_kl from them" if names else ""}


def keep(rows: pa.Table, made_with: Mapping[str, Json], asked_for: Mapping[str, Json]) -> pa.Table:
    """The ``rows`` of soft_labels, of the payload ``made_with``, that hold as ``asked_for``."""
    import pyarrow.compute as pc

    committed, wanted = made_with["config"], asked_for["config"]
    is_kept = _same_teacher(committed, wanted) and committed["num_kept"] >= wanted["num_kept"]
    if not (is_kept and _tails_serve(committed, wanted)):
        return rows.slice(0, 0)
    same_views = committed.get("view_recipe") == wanted.get("view_recipe")
    return rows.filter(pc.less_equal(rows["view"], wanted.get("views", 0) if same_views else 0))


def _same_teacher(one: Json, other: Json) -> bool:
    varies = (*_GROWS, "view_recipe", _EXACT_TAIL)
    return {k: v for k, v in one.items() if k not in varies} == {k: v for k, v in other.items() if k not in varies}


def _tails_serve(committed: Json, wanted: Json) -> bool:
    return _EXACT_TAIL in committed or _EXACT_TAIL not in wanted


def recipe_of(config: RunConfig) -> Recipe:
    """How the views are made that this configuration labels."""
    teacher, label = config.teacher, config.label
    area, jitter, seed = label.view_min_crop_area, label.view_jitter, label.view_seed
    return Recipe(teacher.image_size, teacher.crop_pct, area, jitter, seed)


def open_label(setup: Setup) -> Callable[..., PartResult]:
    """The function from catalog rows, duplicates and rejects already taken out, and soft labels of them that are there
    already, to the soft labels of all of them.

    Loads the teacher: UserError where its weights do not fit. A label does not depend on which images are labelled with
    it: probabilities agree to 1e-5 whatever the batch, which rounding can turn into one step of 2^-7 of the value.
    """
    from ssld_pipeline.models.predict import open_predictor
    from ssld_pipeline.training.predictions import on_threads

    placement = setup.config.placement
    predictor = open_predictor(
        teacher_spec(setup),
        setup.device,
        amp=placement.amp,
        compile=placement.compile,
        batch_size=placement.label_batch_size,
        num_threads=setup.num_threads,
    )
    map_ahead = setup.map_ahead or on_threads(max(placement.loader_threads, setup.num_threads))

    def label(rows: pa.Table, kept: pa.Table | None = None) -> PartResult:
        return _label(rows, kept, predictor, map_ahead, setup.config)

    return label


def _label(
    rows: pa.Table, kept: pa.Table | None, predictor: Predictor, map_ahead: MapAhead, config: RunConfig
) -> PartResult:
    import pyarrow as pa

    from ssld_pipeline.kernels.soft_label import from_probs
    from ssld_pipeline.training.predictions import predict_rows

    rejects: list[Reject] = []
    kept = SOFT_LABELS.row_schema().empty_table() if kept is None else kept.select(SOFT_LABELS.row_schema().names)
    missing = _missing_views(rows, kept, config.label.views)
    tables = []
    for batch in predict_rows(rows, predictor, recipe_of(config), map_ahead, rejects, missing.__getitem__):
        image_ids = rows["image_id"].take(batch.numbers).to_pylist()
        tables.append(_table(image_ids, batch, from_probs(batch.probs, config.label.num_kept)))
    return PartResult(pa.concat_tables([_without(kept, rejects), *tables]).combine_chunks(), rejects)


def _missing_views(rows: pa.Table, kept: pa.Table, num_views: int) -> list[tuple[int, ...]]:
    """Of each row the numbers of the views that are not among ``kept``; view 0 is for the pool's images."""
    present = set(zip(kept["image_id"].to_pylist(), kept["view"].to_pylist(), strict=True))
    images = zip(rows["image_id"].to_pylist(), rows["role"].to_pylist(), strict=True)
    return [
        tuple(view for view in range(role != "pool", num_views + 1) if (image_id, view) not in present)
        for image_id, role in images
    ]


def _without(kept: pa.Table, rejects: list[Reject]) -> pa.Table:
    """An image is there with all of its views or not at all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lost = pa.array([reject.image_id for reject in rejects], pa.string())
    return kept.filter(pc.invert(pc.is_in(kept["image_id"], lost)))


def _table(image_ids: list[str], batch: Predictions, labels: SoftLabels) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from ssld_pipeline.training.views import REPLAY_COLUMNS

    num_rows, num_kept = labels.class_ids.shape
    starts = np.arange(num_rows + 1, dtype=np.int32) * num_kept
    columns = {
        "image_id": image_ids,
        "view": batch.views,
        "top1_class": labels.top1_class,
        "top1_prob": labels.top1_prob,
        "entropy": labels.entropy,
        "class_ids": pa.ListArray.from_arrays(starts, labels.class_ids.ravel()),
        "probs": pa.ListArray.from_arrays(starts, labels.probs.ravel()),
        "tail_prob": labels.tail_prob,
        **dict(zip(REPLAY_COLUMNS, zip(*batch.replays, strict=True), strict=True)),
    }
    return pa.table(columns, schema=SOFT_LABELS.row_schema())


STAGE = PartStage(
    name="label",
    version=3,
    table="soft_labels",
    reads=("catalog", "duplicates"),
    settings=settings,
    open=open_label,
    artifacts=("fit_teacher",),
    networks=("teacher",),
    uses_classes=True,
    roles=lambda config: ("pool", "labeled") if config.replays_views() else ("pool",),
    covers=covers,
    needed=needed,
    reasons=reasons,
    keep=keep,
    section="label",
    checks=("check_teacher",),
)
