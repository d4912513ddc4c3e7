"""The run's teacher, one network or several, as every stage that asks it sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import UserError
from ssld_pipeline.models.class_map import ClassMap, parse_class_map
from ssld_pipeline.models.spec import EnsembleSpec, Member, ModelSpec

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.config.teacher import TeacherConfig, TeacherNetworkConfig
    from ssld_pipeline.stages.stage import Setup


def networks_of(teacher: TeacherConfig) -> dict[str, TeacherNetworkConfig]:
    """Every network of the teacher by its place in the config."""
    return {"teacher": teacher, **{f"teacher.more.{i}": other for i, other in enumerate(teacher.more)}}


def is_plain(teacher: TeacherConfig) -> bool:
    """Whether the network's own softmax is the label: no other teacher, temperature or class list beside it."""
    return not teacher.more and teacher.temperature == 1 and teacher.class_map is None


def teacher_spec(setup: Setup) -> ModelSpec:
    """What labels: the fitted network where the run fits it, the configured weights otherwise; one or several.

    UserError where a class map does not fit the run's classes.
    """
    teacher = setup.config.teacher
    fitted = str(setup.artifacts["fit_teacher"] / "student.safetensors") if teacher.fit else None
    num_classes = len(setup.classes)
    if is_plain(teacher):
        return network_spec(teacher, num_classes, fitted)
    members = []
    for place, network in networks_of(teacher).items():
        spec = network_spec(network, num_classes, fitted if network is teacher else None)
        class_map = _read_class_map(network.class_map, setup.classes, place) if network.class_map else None
        own_size = None if network.image_size == teacher.image_size else network.image_size
        members.append(Member(spec, network.weight, network.temperature, class_map, own_size))
    return EnsembleSpec(
        model=teacher_model(setup.config),
        num_classes=num_classes,
        weights=", ".join(str(member.spec.weights) for member in members),
        mean=teacher.mean,
        std=teacher.std,
        members=tuple(members),
        combine=teacher.combine,
    )


def network_spec(network: TeacherNetworkConfig, num_classes: int, weights: str | None = None) -> ModelSpec:
    """``weights``: in place of the config's."""
    return ModelSpec(
        model=network.model,
        num_classes=num_classes,
        model_args=dict(network.model_args),
        weights=weights or network.weights,
        mean=network.mean,
        std=network.std,
    )


def teacher_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what the teacher says of an image, its files aside: the runner adds their digests.

    What is at its default and came later than the first labels is absent, so that these stay what they are.
    """
    teacher = config.teacher
    found = {**network_settings(teacher), "crop_pct": teacher.crop_pct}
    if teacher.temperature != 1:
        found["temperature"] = teacher.temperature
    if teacher.more:
        others = [{**network_settings(n), "temperature": n.temperature, "weight": n.weight} for n in teacher.more]
        found |= {"combine": teacher.combine, "weight": teacher.weight, "more": others}
    return found


def network_settings(network: TeacherNetworkConfig) -> dict[str, Any]:
    """Architecture and preprocessing."""
    return {
        "model": network.model,
        "model_args": dict(network.model_args),
        "image_size": network.image_size,
        "mean": list(network.mean),
        "std": list(network.std),
    }


def teacher_files(config: RunConfig) -> dict[str, str]:
    """By dotted setting: the files beside ``teacher.weights`` that decide what the teacher says of an image."""
    found = {}
    for place, network in networks_of(config.teacher).items():
        if place != "teacher" and network.weights:
            found[f"{place}.weights"] = network.weights
        if network.class_map:
            found[f"{place}.class_map"] = network.class_map
    return found


def teacher_model(config: RunConfig) -> str:
    """The names of all networks, for people."""
    return " + ".join(network.model for network in networks_of(config.teacher).values())


def teacher_licence(config: RunConfig) -> str | None:
    """The licences of all networks as one SPDX expression; null where none is known."""
    return " AND ".join(teacher_licences(config)) or None


def teacher_licences(config: RunConfig) -> list[str]:
    """The licences of all networks, each once, as SPDX names; none where none is known."""
    licences = list(dict.fromkeys(network.licence for network in networks_of(config.teacher).values()))
    return [] if licences == [None] else [licence or "NOASSERTION" for licence in licences]


def _read_class_map(uri: str, classes: tuple[str, ...], place: str) -> ClassMap:
    from ssld_pipeline.inputs.location import filesystem

    try:
        files, path = filesystem(uri)
        text: str = files.cat_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place}.class_map: {uri} cannot be read as a text file: {error}") from None
    return parse_class_map(text, classes, f"{place}.class_map: {uri}")
