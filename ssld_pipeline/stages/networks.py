"""Whether the run's networks can be built at all: asked before the first image is read, not after a night of dedupe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ssld_pipeline.config.graph import place_of
from ssld_pipeline.errors import UserError
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.stages.stage import Setup
from ssld_pipeline.stages.teacher import network_spec, teacher_spec
from ssld_pipeline.stages.trainings import model_spec, network_of, start_file

if TYPE_CHECKING:
    from torch import nn

    from ssld_pipeline.config.run import RunConfig


@dataclass
class _Network:
    """One network to build. ``sizes``: in pixels, of the images it sees at rest, by the setting that asks for them;
    ``learning``: the same while it is trained; ``alone``: while batch norm sees one image at a time.
    ``without_norm_batch``: trainings in which a batch norm of it would see batches too large to be one norm batch.
    ``keeps_head``: with the classifier of its weights. ``unequal``: trainings whose objective cannot begin with a
    classifier of zeros."""

    place: str
    spec: ModelSpec
    sizes: dict[str, int] = field(default_factory=dict)
    learning: dict[str, int] = field(default_factory=dict)
    alone: dict[str, int] = field(default_factory=dict)
    without_norm_batch: list[str] = field(default_factory=list)
    keeps_head: bool = False
    unequal: list[str] = field(default_factory=list)


def check_networks(setup: Setup) -> None:
    """Build teacher and students, load what weights they start from, and show each images of the sizes it will see, at
    rest and, where it learns, in training. They are let go of: what batch norm keeps of these images reaches nobody.

    UserError where a name is unknown, the constructor refuses its arguments, weights do not fit the network or the
    run's classes, the network takes no images of that size or gives no logits for them, or has batch norm and a batch
    too large to be one norm batch.
    """
    from ssld_pipeline.models.build import build

    for network in _networks(setup):
        try:
            model = build(network.spec)
        except UserError as error:
            place = f"{network.place}.head: keep" if network.keeps_head else network.place
            raise UserError(f"{place}: {error}") from None
        _require_norm_batch(model, network)
        _require_classifier(model, network)
        for setting, size in network.sizes.items():
            _show(model, network, setting, size)
        for setting, size in network.learning.items():
            _show(model.train(), network, setting, size)
        for setting, size in network.alone.items():
            _show(model.train(), network, setting, size, num_images=1)


def _networks(setup: Setup) -> Iterator[_Network]:
    """The teacher, then each student once: trainings of one network with one start share it."""
    config = setup.config
    spec = _start_of_fit(setup) if config.teacher.fit else teacher_spec(setup)
    teacher = _Network("teacher", spec, {"teacher.image_size": config.teacher.image_size})
    if fit := config.teacher.fit:
        teacher.sizes["teacher.fit.image_size"] = fit.image_size
        if fit.trainable == "all":
            teacher.learning["teacher.fit.image_size"] = fit.image_size
            _note_alone(teacher, config, "fit_teacher", fit.image_size)
            _note_norm_batch(teacher, config, "fit_teacher")
    students: dict[str, _Network] = {}
    for name, node in config.ordered_nodes().items():
        place = place_of(config, name)
        key, network = _student(setup, name)
        student = students.setdefault(key, network)
        size = f"{place}.image_size"
        student.sizes[size] = node.image_size
        student.unequal += [
            f"{place}.objective: {t.name}" for t in node.objective if t.refuses_equal_logits and not node.init_node
        ]
        if node.trainable == "all":
            student.learning[size] = node.image_size
            _note_alone(student, config, name, node.image_size)
            _note_norm_batch(student, config, name)
        if node.teacher == "teacher" and node.teacher_batch_norm == "train":
            _note_alone(teacher, config, name, config.teacher.image_size)
            _note_norm_batch(teacher, config, name)
    yield teacher
    yield from students.values()


def _student(setup: Setup, name: str) -> tuple[str, _Network]:
    """With the file it starts from. A training that starts from another's model has that one's network."""
    config, node = setup.config, setup.config.nodes[name]
    file = start_file(config, name)
    spec = model_spec(config, name, len(setup.classes), file)
    if file is not None:
        spec = spec.with_head(node.head)
    network = network_of(config, name)
    place = place_of(config, name)
    key, keeps_head = repr((spec.model, spec.model_args, file, file and node.head)), bool(file) and node.head == "keep"
    if keeps_head:
        return key, _Network(place, spec, keeps_head=True)
    is_shared = node.student is None and network is config.student and node.init_file is None
    return key, _Network("student" if is_shared else f"{place}.{'init' if node.init_file else 'student'}", spec)


def _note_alone(network: _Network, config: RunConfig, name: str, size: int) -> None:
    if config.recipes()[name].images_per_norm == 1:
        network.alone[f"{place_of(config, name)}.norm_batch: 1, with images of"] = size


def _note_norm_batch(network: _Network, config: RunConfig, name: str) -> None:
    if config.recipes()[name].needs_norm_batch:
        network.without_norm_batch.append(f"{place_of(config, name)} (batch_size {config.recipes()[name].batch_size})")


def _require_norm_batch(model: nn.Module, network: _Network) -> None:
    from torch.nn.modules.batchnorm import _BatchNorm

    if network.without_norm_batch and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise UserError(
            f"norm_batch is missing in {', '.join(network.without_norm_batch)}: model {network.spec.model!r} has batch "
            f"norm, and above 256 images per step there is no default for the images per batch norm statistic. "
            f"Published: 32 for the ResNets, 240 for MobileNetV3, 512 for MobileNetV1, 384 for MobileNetV2. Of a model "
            f"of an earlier version: batch_size / placement.train_workers"
        )


def _require_classifier(model: nn.Module, network: _Network) -> None:
    from ssld_pipeline.models.classifier import classifier_keys

    tensors = model.state_dict()
    if network.unequal and not any(tensors[key].any() for key in classifier_keys(model)):
        raise UserError(
            f"{network.unequal[0]} cannot begin with a new classifier, which is zero: with equal probabilities its "
            f"gradients are up to 1e6. Train some steps with another objective first and start from that (init), or "
            f"keep a classifier"
        )


def _show(model: nn.Module, network: _Network, setting: str, size: int, num_images: int = 2) -> None:
    """Of one image, batch norm in training may have a single value per channel, and then refuses it."""
    import torch

    spec, place = network.spec, network.place
    try:
        with torch.inference_mode():
            found = model(torch.zeros(num_images, 3, size, size))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        separator = " " if " " in setting else ": "
        raise UserError(f"{setting}{separator}{size}, but model {spec.model!r} takes no such image: {error}") from None
    if model.training and not isinstance(found, torch.Tensor):
        raise UserError(
            f"{place}: in training model {spec.model!r} gives {type(found).__name__} instead of logits; turn off its "
            f"auxiliary classifiers ({place}.model_args: {{aux_logits: false}} for torchvision's), or name another"
        )
    if not isinstance(found, torch.Tensor) or found.shape != (num_images, spec.num_classes):
        expected = f"[images, {spec.num_classes}]"
        raise UserError(f"{place}: model {spec.model!r} gives no logits {expected}; name a classifier")


def _start_of_fit(setup: Setup) -> ModelSpec:
    teacher = setup.config.teacher
    spec = network_spec(teacher, len(setup.classes))
    return replace(spec, head="new") if teacher.weights is not None else spec
