"""Whether the run's networks can be built at all: asked before the first image is read, not after a night of dedupe."""

from __future__ import annotations

from dataclasses import replace

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.stages.student import student_spec
from ssld_pipeline.stages.teacher import check, network_spec, teacher_spec


def check_networks(setup: Setup) -> None:
    """Build teacher and student and load what weights they start from.

    UserError where a name is unknown, the constructor refuses its arguments, or weights do not fit the network or the
    run's classes.
    """
    from ssld_pipeline.models.build import build

    check(setup.config)
    specs = {
        "teacher": _start_of_fit(setup) if setup.config.teacher.fit else teacher_spec(setup),
        "student": student_spec(replace(setup, artifacts={})),
    }
    for section, spec in specs.items():
        try:
            build(spec)
        except UserError as error:
            raise UserError(f"{section}: {error}") from None


def _start_of_fit(setup: Setup) -> ModelSpec:
    teacher = setup.config.teacher
    return replace(network_spec(teacher, len(setup.classes)), new_head=teacher.weights is not None)
