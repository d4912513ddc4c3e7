"""Read a config file: YAML, overrides, validation, absolute paths."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from ssld_pipeline.config.inherited import SECTIONS
from ssld_pipeline.config.inputs import InputConfig
from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.config.settings import Settings, side_files_of
from ssld_pipeline.config.student import StudentConfig
from ssld_pipeline.config.teacher import TeacherNetworkConfig
from ssld_pipeline.config.training import TrainingConfig
from ssld_pipeline.errors import UserError

Network = TypeVar("Network", bound=TeacherNetworkConfig)


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read, override (``key.sub=value``, the value is YAML) and validate; relative paths start at the file's folder.

    Raises UserError with one message that names every mistake.
    """
    path = Path(path)
    data = read_settings(path, overrides)
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(f"config {path} is not valid:\n" + "\n".join(_explain(error))) from None
    return _absolute(config, path.resolve().parent)


def read_settings(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The config as it is written, with its overrides, not yet validated. UserError where it is no mapping."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"config {path} cannot be read as YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"config {path} must hold a mapping of settings, got {type(data).__name__}")
    for override in overrides:
        _override(data, override)
    return data


def _override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override!r}: expected key=value, for example select.per_class=400")
    *parents, last = key.split(".")
    node: Any = data
    for name in parents:
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
            continue
        if not isinstance(node, dict):
            raise UserError(f"--set {override!r}: {key!r} leads through a value that is no section")
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
    if not isinstance(node, dict):
        raise UserError(f"--set {override!r}: {key!r} leads into a value that is no section")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override!r}: the value is not YAML: {error}") from None


def _explain(error: ValidationError) -> list[str]:
    lines = []
    places = [item["loc"] for item in error.errors()]
    for item in error.errors():
        if item["type"] == "too_short" and any(loc[:-1][: len(item["loc"])] == item["loc"] for loc in places):
            continue  # only because pydantic does not count an entry with a mistake of its own
        place = ".".join(str(p) for p in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _keys_at(item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            lines.append(f"  {place}: unknown key{hint}")
        elif item["type"] == "missing":
            lines.append(f"  {place}: missing")
        else:
            said = item["msg"].removeprefix("Value error, ")
            got = "" if isinstance(item["input"], dict) else f", got {item['input']!r}"  # a section says itself what
            separator = "." if re.match(r"[a-z_]+: ", said) else ": "  # a section may name the key itself
            lines.append("  " + (place + separator if place else "") + said + got)
    return lines


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    schema = RunConfig.model_json_schema()
    node: dict[str, Any] = schema
    for step in location:
        node = _resolve(schema, node)
        of_any_name = node.get("additionalProperties")
        if "items" in node:
            node = node["items"]
        elif isinstance(of_any_name, dict):
            node = of_any_name
        else:
            node = node.get("properties", {}).get(str(step), {})
    return sorted(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", []):
        if option.get("type") != "null":
            node = option
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _absolute(config: RunConfig, folder: Path) -> RunConfig:
    """Paths in the file are relative to the file, so that a run does not depend on where it was started."""

    def place(uri: str | None) -> str | None:
        return uri if uri is None or "://" in uri else os.path.normpath(folder / Path(uri).expanduser())

    def move(item: InputConfig) -> InputConfig:
        return item.model_copy(update={"uri": place(item.uri)})

    moved = {role: tuple(move(i) for i in getattr(config.inputs, role)) for role in ("labeled", "protected", "pool")}
    inputs = config.inputs.model_copy(update=moved)

    def move_teacher(network: Network) -> Network:
        return network.model_copy(update={"weights": place(network.weights), "class_map": place(network.class_map)})

    others = tuple(move_teacher(network) for network in config.teacher.more)
    teacher = move_teacher(config.teacher).model_copy(update={"more": others})
    if teacher.fit and teacher.fit.data:
        teacher = teacher.model_copy(update={"fit": teacher.fit.model_copy(update={"data": move(teacher.fit.data)})})

    def move_student(student: StudentConfig | None) -> StudentConfig | None:
        return student and student.model_copy(update={"weights": place(student.weights)})

    def move_node(node: TrainingConfig) -> TrainingConfig:
        init = place(node.init) if node.init_file else node.init
        return node.model_copy(update={"student": move_student(node.student), "init": init})

    sections = {name: getattr(config, name) for name in RunConfig.model_fields}
    listed = {
        name: section.model_copy(update={k: tuple(map(place, uris)) for k, uris in side_files.items()})
        for name, section in sections.items()
        if isinstance(section, Settings) and (side_files := side_files_of(section))
    }
    update = {
        "workspace": place(config.workspace),
        "inputs": inputs,
        "classes": place(config.classes),
        "teacher": teacher,
        "student": move_student(config.student),
        "trainings": {name: move_node(node) for name, node in config.trainings.items()},
        **{name: move_node(node) for name in SECTIONS if (node := getattr(config, name)) is not None},
        **listed,
    }
    return config.model_copy(update=update)
