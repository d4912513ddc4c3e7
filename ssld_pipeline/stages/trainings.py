"""The trainings: one stage for each node of the graph. Stage 1 of SSLD (arXiv:2103.05959, section 3) is the node
``train``, its finetuning on labelled images ``finetune``; any number of others are configured alike."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ssld_pipeline.config.graph import depends_on, groups, place_of, takes_steps_of_others
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.stages.earlier_models import modernise
from ssld_pipeline.stages.label import recipe_of
from ssld_pipeline.stages.stage import Setup, TrainData, TrainStage
from ssld_pipeline.stages.teacher import teacher_licences, teacher_settings, teacher_spec
from ssld_pipeline.training.job import MODEL_FILE, OnlineTeacher, StoredTeacher, TrainJob
from ssld_pipeline.training.schedule import num_steps

if TYPE_CHECKING:
    from pathlib import Path

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.config.student import StudentConfig
    from ssld_pipeline.config.training import TrainingConfig


def training_stages(config: RunConfig) -> tuple[TrainStage, ...]:
    """Each after those whose models it reads."""
    passes = {name: group for group in groups(config.nodes) for name in group}
    return tuple(_stage(name, node, passes[name]) for name, node in config.ordered_nodes().items())


def _stage(name: str, node: TrainingConfig, together: tuple[str, ...]) -> TrainStage:
    asks_teacher = node.teacher in ("teacher", "stored")
    mines = node.data == "manifest"
    return TrainStage(
        name=name,
        version=1,
        reads=("manifest",) if mines else ("catalog",),
        also_reads=lambda config: ("soft_labels",) if node.replays else (),
        settings=partial(settings, name),
        job=partial(job, name),
        artifacts=(*(("fit_teacher",) if asks_teacher else ()), *depends_on(node)),
        networks=("teacher", "student") if asks_teacher else ("student",),
        weights=lambda config: {} if node.init_node else {"student": start_file(config, name)},
        uses_classes=True,
        is_guarded=True,
        checks=("guard_training",),
        roles=lambda config: () if mines else (node.data,),
        together=together,
        modernise=partial(modernise, name),
    )


def settings(name: str, config: RunConfig) -> dict[str, Any]:
    """What decides the weights, files and data aside: the runner adds their digests."""
    node = config.nodes[name]
    training = node.of_fingerprint()
    if node.head != "auto" and start_file(config, name):
        training["head"] = node.head  # of the top-level student's weights, too
    if takes_steps_of_others(config, name):
        training.pop("epochs", None)
    found: dict[str, Any] = {"training": training, "student": network_settings(network_of(config, name))}
    if node.replays:
        found["label"] = {"num_kept": config.label.num_kept, "views": config.label.views}
    if node.teacher in ("teacher", "stored"):
        found["teacher"] = teacher_settings(config)
    elif node.teacher_node:
        found["teacher"] = {
            **network_settings(network_of(config, node.teacher_node)),
            "image_size": config.nodes[node.teacher_node].image_size,
        }
    if not node.replays and node.teacher and _teacher_size(config, node) != node.image_size:
        # Models made before the teacher had its own size saw the student's images.
        training["teacher_sees"] = "own size"
    if node.init_node and node.teacher_node and node.init_node != node.teacher_node:
        found["taught_by"] = node.teacher_node  # the artifacts alone do not say which of the two teaches
    return found


def network_settings(network: StudentConfig) -> dict[str, Any]:
    """Architecture and preprocessing."""
    return network.model_dump(mode="json", exclude={"weights"})


def network_of(config: RunConfig, name: str) -> StudentConfig:
    """The network of a training."""
    found = config.network_of(name)
    assert found is not None
    return found


def start_file(config: RunConfig, name: str) -> str | None:
    """The weights file that a training starts from; null: another training's model, or a random start."""
    node = config.nodes[name]
    return None if node.init_node else node.init_file or network_of(config, name).weights


def model_spec(config: RunConfig, name: str, num_classes: int, weights: str | Path | None) -> ModelSpec:
    """The network of a training with the ``weights`` that it made, or with no weights."""
    network = network_of(config, name)
    return ModelSpec(
        model=network.model,
        num_classes=num_classes,
        model_args=dict(network.model_args),
        weights=None if weights is None else str(weights),
        mean=network.mean,
        std=network.std,
    )


def start_spec(setup: Setup, name: str) -> ModelSpec:
    """What a training starts from."""
    node, num_classes = setup.config.nodes[name], len(setup.classes)
    if node.init_node:
        weights: str | Path | None = setup.artifacts[node.init_node] / MODEL_FILE
    else:
        weights = start_file(setup.config, name)
    spec = model_spec(setup.config, name, num_classes, weights)
    return spec if weights is None else spec.with_head(node.head)


def job(name: str, setup: Setup, data: TrainData) -> TrainJob:
    config, node = setup.config, setup.config.nodes[name]
    tables, roles = _data(config, node, data)
    recipe = node
    if takes_steps_of_others(config, name):
        recipe = node.model_copy(update={"steps": _steps_of_others(config, data)})
    return TrainJob(
        stage=name,
        section=place_of(config, name),
        student=start_spec(setup, name),
        settings=recipe,
        objective=node.objective,
        tables=tables,
        roles=roles,
        validation=data.validation,
        teacher=_teacher(setup, data, node),
        class_names=setup.classes,
        left_out=data.left_out,
        licence=" AND ".join(licences) if (licences := licences_of(config, name)) else None,
    )


def _data(config: RunConfig, node: TrainingConfig, data: TrainData) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tables to read, and the roles of their rows that count."""
    if node.data == "manifest":
        return data.manifest, ("labeled", "pool")
    if node.data == "labeled":
        return data.labeled, ("labeled",)
    return data.inputs[node.data], (config.named_inputs()[node.data][0],)


def _teacher(setup: Setup, data: TrainData, node: TrainingConfig) -> OnlineTeacher | StoredTeacher | None:
    config = setup.config
    if node.teacher is None:
        return None
    if node.replays:
        num_kept = min(config.label.num_kept, len(setup.classes))
        return StoredTeacher(data.soft_labels, config.label.views, num_kept, recipe_of(config))
    if node.teacher_node:
        weights = setup.artifacts[node.teacher_node] / MODEL_FILE
        spec = model_spec(config, node.teacher_node, len(setup.classes), weights)
    else:
        spec = teacher_spec(setup)
    return OnlineTeacher(spec, _teacher_size(config, node), node.teacher_batch_norm)


def _teacher_size(config: RunConfig, node: TrainingConfig) -> int:
    """Side in pixels of what an online teacher sees."""
    return config.nodes[node.teacher_node].image_size if node.teacher_node else config.teacher.image_size


def licences_of(config: RunConfig, name: str) -> list[str]:
    """Of all weights that the model is made with, its own start and its teachers', each once; SPDX names."""
    node = config.nodes[name]
    found = teacher_licences(config) if node.teacher in ("teacher", "stored") else []
    for other in depends_on(node):
        found += licences_of(config, other)
    return list(dict.fromkeys(found))


def _steps_of_others(config: RunConfig, data: TrainData) -> int:
    """As many as train and finetune take together."""
    num_images = {
        "manifest": data.num_labeled + data.num_mined,
        "labeled": data.num_labeled,
        **data.num_of_input,
    }
    others = [config.nodes[name] for name in ("train", "finetune") if name in config.nodes]
    return sum(num_steps(node, num_images[node.data]) for node in others)
