"""The stages in order. Read this file first.

inputs --catalog--> catalog --index_protected--> index        (images the pool is checked against)
index --check_dedupe--> (refuses a dedupe that misses copies made to test it)
catalog, index --guard_training--> pairs                      (of the images that networks are trained on)
catalog, index --find_copies--> pairs                         (of the pool)
catalog --look--> looks --group_pool--> repeats               (near-identical images of the pool; optional)
pairs, repeats, lists that allow and deny --dedupe--> duplicates
labelled images --hold_out--> (some that the teacher is not fitted on)
labelled images --fit_teacher--> teacher --check_teacher--> (refuses a teacher that cannot tell the classes)
catalog - duplicates, teacher --label--> soft_labels --select--> manifest
manifest or labelled images, teacher --trainings--> students  (one stage for each node of the config's graph:
                                                               train, finetune, baseline, and any others)
protected images, all models --evaluate--> evaluations
any stage --> rejects
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ssld_pipeline.stages import (
    catalog,
    check_dedupe,
    check_teacher,
    dedupe,
    evaluate,
    find_copies,
    fit_teacher,
    group_pool,
    guard_training,
    hold_out,
    index_protected,
    label,
    look,
    select,
    trainings,
)
from ssld_pipeline.stages.stage import Stage

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig

Shape = TypeVar("Shape", bound=Stage)


def stages(config: RunConfig) -> tuple[Stage, ...]:
    """All of them, those of the mining half that this config does not enable too."""
    return (
        catalog.STAGE,
        index_protected.STAGE,
        check_dedupe.STAGE,
        guard_training.STAGE,
        find_copies.STAGE,
        look.STAGE,
        group_pool.STAGE,
        dedupe.STAGE,
        hold_out.STAGE,
        fit_teacher.STAGE,
        check_teacher.STAGE,
        label.STAGE,
        select.STAGE,
        *trainings.training_stages(config),
        evaluate.stage(config),
    )


def stage_named(config: RunConfig, name: str) -> Stage:
    """KeyError for a name that is no stage."""
    return {stage.name: stage for stage in stages(config)}[name]


def stage_of(config: RunConfig, name: str, shape: type[Shape]) -> Shape:
    """The same, of the shape that the caller can work with; TypeError for another."""
    stage = stage_named(config, name)
    if not isinstance(stage, shape):
        raise TypeError(f"stage {name} is a {type(stage).__name__}, no {shape.__name__}")
    return stage
