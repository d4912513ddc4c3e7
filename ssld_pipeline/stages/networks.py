"""Whether the run's networks can be built at all: asked before the first image is read, not after a night of dedupe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.stages.student import student_spec
from ssld_pipeline.stages.teacher import check, network_spec, teacher_spec

if TYPE_CHECKING:
    from torch import nn

    from ssld_pipeline.config import RunConfig


def check_networks(setup: Setup) -> None:
    """Build teacher and student, load what weights they start from, and show each an image of the sizes it will see.

    UserError where a name is unknown, the constructor refuses its arguments, weights do not fit the network or the
    run's classes, or the network takes no images of that size.
    """
    from ssld_pipeline.models.build import build

    config = setup.config
    check(config)
    specs = {
        "teacher": _start_of_fit(setup) if config.teacher.fit else teacher_spec(setup),
        "student": student_spec(replace(setup, artifacts={})),
    }
    of_student = {f"{name}.image_size": section.image_size for name, section in config.train_sections().items()}
    sizes = {"teacher": _sizes_of_teacher(config), "student": of_student}
    for section, spec in specs.items():
        try:
            model = build(spec)
        except UserError as error:
            raise UserError(f"{section}: {error}") from None
        for setting, size in sizes[section].items():
            _show(model, spec, section, setting, size)


def _sizes_of_teacher(config: RunConfig) -> dict[str, int]:
    """An online teacher sees the student's images."""
    sizes = {"teacher.image_size": config.teacher.image_size}
    if config.teacher.fit:
        sizes["teacher.fit.image_size"] = config.teacher.fit.image_size
    online = {n: s for n, s in config.train_sections().items() if s.loss != "ce" and not s.replays}
    return sizes | {f"{name}.image_size": section.image_size for name, section in online.items()}


def _show(model: nn.Module, spec: ModelSpec, section: str, setting: str, size: int) -> None:
    import torch

    try:
        with torch.inference_mode():
            found = model(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{setting}: {size}, but model {spec.model!r} takes no such image: {error}") from None
    if not isinstance(found, torch.Tensor) or found.shape != (1, spec.num_classes):
        expected = f"[images, {spec.num_classes}]"
        raise UserError(f"{section}: model {spec.model!r} gives no logits {expected}; name a classifier")


def _start_of_fit(setup: Setup) -> ModelSpec:
    teacher = setup.config.teacher
    return replace(network_spec(teacher, len(setup.classes)), new_head=teacher.weights is not None)
