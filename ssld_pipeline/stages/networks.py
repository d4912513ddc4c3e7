"""Whether the run's networks can be built at all: asked before the first image is read, not after a night of dedupe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ssld_pipeline.config.train import section_of
from ssld_pipeline.errors import UserError
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.stages.student import student_spec
from ssld_pipeline.stages.teacher import network_spec, teacher_spec

if TYPE_CHECKING:
    from torch import nn

    from ssld_pipeline.config.run import RunConfig


def check_networks(setup: Setup) -> None:
    """Build teacher and student, load what weights they start from, and show each images of the sizes it will see, at
    rest and, where it learns, in training. They are let go of: what batch norm keeps of these images reaches nobody.

    UserError where a name is unknown, the constructor refuses its arguments, weights do not fit the network or the
    run's classes, or the network takes no images of that size or gives no logits for them.
    """
    from ssld_pipeline.models.build import build

    config = setup.config
    specs = {
        "teacher": _start_of_fit(setup) if config.teacher.fit else teacher_spec(setup),
        "student": student_spec(replace(setup, artifacts={})),
    }
    of_student = {f"{name}.image_size": section.image_size for name, section in config.train_sections().items()}
    sizes = {"teacher": _sizes_of_teacher(config), "student": of_student}
    learning = _sizes_in_training(config)
    for section, spec in specs.items():
        try:
            model = build(spec)
        except UserError as error:
            raise UserError(f"{section}: {error}") from None
        for setting, size in sizes[section].items():
            _show(model, spec, section, setting, size)
        for setting, size in learning[section].items():
            _show(model.train(), spec, section, setting, size)


def _sizes_of_teacher(config: RunConfig) -> dict[str, int]:
    """An online teacher sees the student's images."""
    sizes = {"teacher.image_size": config.teacher.image_size}
    if config.teacher.fit:
        sizes["teacher.fit.image_size"] = config.teacher.fit.image_size
    online = {n: s for n, s in config.train_sections().items() if s.loss != "ce" and not s.replays}
    return sizes | {f"{name}.image_size": section.image_size for name, section in online.items()}


def _sizes_in_training(config: RunConfig) -> dict[str, dict[str, int]]:
    """A network of which the classifier alone learns stays at rest."""
    found: dict[str, dict[str, int]] = {"teacher": {}, "student": {}}
    for stage, section in config.trainings().items():
        if section.trainable == "all":
            network = "teacher" if stage == "fit_teacher" else "student"
            found[network][f"{section_of(stage)}.image_size"] = section.image_size
    return found


def _show(model: nn.Module, spec: ModelSpec, section: str, setting: str, size: int) -> None:
    """Two images: of one, batch norm in training may have a single value per channel."""
    import torch

    try:
        with torch.inference_mode():
            found = model(torch.zeros(2, 3, size, size))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{setting}: {size}, but model {spec.model!r} takes no such image: {error}") from None
    if model.training and not isinstance(found, torch.Tensor):
        raise UserError(
            f"{section}: in training model {spec.model!r} gives {type(found).__name__} instead of logits; turn off its "
            f"auxiliary classifiers ({section}.model_args: {{aux_logits: false}} for torchvision's), or name another"
        )
    if not isinstance(found, torch.Tensor) or found.shape != (2, spec.num_classes):
        expected = f"[images, {spec.num_classes}]"
        raise UserError(f"{section}: model {spec.model!r} gives no logits {expected}; name a classifier")


def _start_of_fit(setup: Setup) -> ModelSpec:
    teacher = setup.config.teacher
    return replace(network_spec(teacher, len(setup.classes)), new_head=teacher.weights is not None)
