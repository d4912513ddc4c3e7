"""Whether the run's networks can be built at all: asked before the first image is read, not after a night of dedupe."""

from __future__ import annotations

from dataclasses import replace

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.stages.student import student_spec
from ssld_pipeline.stages.teacher import check


def check_networks(setup: Setup) -> None:
    """Build teacher and student and load what weights they start from.

    UserError where a name is unknown, the constructor refuses its arguments, or weights do not fit the network or the
    run's classes.
    """
    from ssld_pipeline.models.build import build

    teacher = setup.config.teacher
    check(setup.config)
    specs = {
        "teacher": ModelSpec(
            model=teacher.model,
            num_classes=len(setup.classes),
            model_args=dict(teacher.model_args),
            weights=teacher.weights,
            new_head=teacher.fit is not None and teacher.weights is not None,
        ),
        "student": student_spec(replace(setup, artifacts={})),
    }
    for section, spec in specs.items():
        try:
            build(spec)
        except UserError as error:
            raise UserError(f"{section}: {error}") from None
