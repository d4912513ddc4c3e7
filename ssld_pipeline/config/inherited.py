"""What each training of a config takes from a preset, from ``train``, and from what its section goes without saying."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssld_pipeline.config.presets import read_preset
from ssld_pipeline.config.training import is_file

SECTIONS = ("baseline", "train", "finetune")
"""Trainings with a section of their own, in the order in which they run where nothing else orders them."""

_OF_ONE_NODE = ("preset", "init", "data", "head", "together")
_LEARNT_FROM = ("objective", "loss", "temperature")

Origins = dict[str, dict[str, str]]
"""By node, and its key (of a part of a mapping: ``key.part``): where the value comes from."""


def resolve(data: Mapping[str, Any]) -> tuple[dict[str, Any], Origins]:
    """The config as written, with every node's preset and inherited keys filled in. ValueError for an unknown preset.

    Values that are no mappings are left for the validation that follows.
    """
    data = dict(data)
    if data.get("trainings") is None:
        data.pop("trainings", None)
        data.setdefault("train", {})
    origins: Origins = {}
    for section in SECTIONS:
        if isinstance(data.get(section), dict):
            data[section], origins[section] = _with_preset(section, data[section])
    if isinstance(data.get("trainings"), dict):
        nodes = {}
        for name, node in data["trainings"].items():
            nodes[name] = {} if node is None else node
            if isinstance(nodes[name], dict):
                nodes[name], origins[str(name)] = _with_preset(f"trainings.{name}", nodes[name])
        data["trainings"] = nodes
    train = data.get("train")
    if train is None and isinstance(data.get("trainings"), dict):
        train = data["trainings"].get("train")
    for section in ("finetune", "baseline"):
        if isinstance(data.get(section), dict):
            _inherit(section, data[section], origins[section], train if isinstance(train, dict) else {})
    return data, origins


def _with_preset(place: str, node: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Mappings, such as ``student``, are merged key by key."""
    origins = dict.fromkeys(node, "config")
    preset = node.get("preset")
    if not isinstance(preset, str):
        return dict(node), origins
    try:
        found = read_preset(preset)
    except ValueError as error:
        raise ValueError(f"{place}.preset: {error}") from None
    if any(key in node for key in _LEARNT_FROM):
        found = {key: value for key, value in found.items() if key not in _LEARNT_FROM}
    merged, origin = {**found, **node}, f"preset {preset}"
    origins = dict.fromkeys(found, origin) | origins
    for key, value in found.items():
        if isinstance(value, dict) and isinstance(node.get(key), dict):
            merged[key] = {**value, **node[key]}
            origins |= {f"{key}.{part}": origin for part in value if part not in node[key]}
    return merged, origins


def _inherit(section: str, own: dict[str, Any], origins: dict[str, str], train: Mapping[str, Any]) -> None:
    """Fill ``own`` with what the section takes from ``train``, and with its own defaults."""
    not_taken = set(_OF_ONE_NODE)
    if "epochs" in own or section == "baseline":
        not_taken.add("steps")
    defaults: dict[str, Any] = {"init": "train", "data": "labeled"} if section == "finetune" else {"data": "labeled"}
    if section == "baseline":
        if "loss" not in own:
            defaults |= {"teacher": None} if "objective" in own else {"loss": "ce", "teacher": None}
        if not (isinstance(start := train.get("init"), str) and not is_file(start)):
            not_taken -= {"init", "head"}  # it starts as train does, unless that starts from what the pool taught
    if "objective" in own or section == "baseline":
        not_taken.update(_LEARNT_FROM)
    elif "loss" in own or "temperature" in own:
        not_taken.add("objective")
    if own.get("loss") == "ce":
        not_taken.add("teacher")
    inherited = {key: value for key, value in train.items() if key not in not_taken and key not in own}
    own_defaults = {key: value for key, value in defaults.items() if key not in own}
    own.update(inherited | own_defaults)
    if own.get("init") is not None and isinstance(student := inherited.get("student"), dict):
        own["student"] = {key: value for key, value in student.items() if key != "weights"}
    origins.update(dict.fromkeys(inherited, "train") | dict.fromkeys(own_defaults, f"default of {section}"))
