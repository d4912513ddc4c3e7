"""The stages in order. Read this file first.

inputs --catalog--> catalog --index_protected--> index        (images the pool is checked against)
index --check_dedupe--> (refuses a dedupe that misses copies made to test it)
catalog, index --find_copies--> pairs
catalog --look--> looks --group_pool--> repeats               (near-identical images of the pool; optional)
pairs, repeats, lists that allow and deny --dedupe--> duplicates
labelled images --fit_teacher--> teacher --check_teacher--> (refuses a teacher that cannot tell the classes)
catalog - duplicates, teacher --label--> soft_labels --select--> manifest
labelled images --baseline--> student                         (for comparison; optional)
manifest, teacher --train--> student --finetune--> student --evaluate--> evaluations
any stage --> rejects
"""

from __future__ import annotations

from ssld_pipeline.stages import (
    baseline,
    catalog,
    check_dedupe,
    check_teacher,
    dedupe,
    evaluate,
    find_copies,
    finetune,
    fit_teacher,
    group_pool,
    index_protected,
    label,
    look,
    select,
    train,
)
from ssld_pipeline.stages.stage import Stage

STAGES: tuple[Stage, ...] = (
    catalog.STAGE,
    index_protected.STAGE,
    check_dedupe.STAGE,
    find_copies.STAGE,
    look.STAGE,
    group_pool.STAGE,
    dedupe.STAGE,
    fit_teacher.STAGE,
    check_teacher.STAGE,
    label.STAGE,
    select.STAGE,
    baseline.STAGE,
    train.STAGE,
    finetune.STAGE,
    evaluate.STAGE,
)

STAGE_NAMES = tuple(stage.name for stage in STAGES)


def stage_named(name: str) -> Stage:
    """KeyError for a name that is no stage."""
    return {stage.name: stage for stage in STAGES}[name]
