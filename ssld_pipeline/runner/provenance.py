"""Describe the teacher that labelled, for readers of a table: in its parts and in its Delta log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssld_pipeline.stages.teacher import network_settings, networks_of
from ssld_pipeline.store.fingerprints import digest

if TYPE_CHECKING:
    from ssld_pipeline.runner.state import State


def teacher_note(state: State) -> dict[str, Any]:
    """Of each network its model, weights (digest of the file), licence, preprocessing and share; of the class list its
    length and digest. ``amp``: bfloat16 where a GPU labelled. ``fitted``: the weights are those that fit_teacher made,
    ``started_from`` those of the config.

    Digests are 16 hex digits of BLAKE2b, of a class list over its canonical JSON.
    """
    teacher = state.config.teacher
    note: dict[str, Any] = {
        "networks": [_network(place, state) for place in networks_of(teacher)],
        "combine": teacher.combine,
        "crop_pct": teacher.crop_pct,
        "amp": state.config.placement.amp,
        "fitted": teacher.fit is not None,
        "classes": {"count": len(state.survey.classes), "digest": digest(list(state.survey.classes))},
    }
    if teacher.fit and teacher.weights:
        note["started_from"] = state.digests.of(teacher.weights, "teacher.weights")
    return note


def _network(place: str, state: State) -> dict[str, Any]:
    network = networks_of(state.config.teacher)[place]
    found = {
        **network_settings(network),
        "licence": network.licence,
        "temperature": network.temperature,
        "weight": network.weight,
    }
    for name in ("weights", "class_map"):
        uri = getattr(network, name)
        found[name] = None if uri is None else state.digests.of(uri, f"{place}.{name}")
    if place == "teacher" and state.config.teacher.fit:
        record = state.workspace.artifact("fit_teacher").usable_record()
        found["weights"] = record and record.files.get("student.safetensors")
    return found
