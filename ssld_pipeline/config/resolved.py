"""Every setting of a config, defaults and presets filled in, with where its value comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from ssld_pipeline.config.inherited import SECTIONS, Origins, resolve
from ssld_pipeline.config.load import load_config, read_settings
from ssld_pipeline.config.settings import Settings
from ssld_pipeline.terms.term import Term

_SHORT_FORMS = {"objective": ("objective", "loss", "temperature")}


class Resolved(NamedTuple):
    """A setting by its dotted name, its value as in JSON, and its origin: config, --set, preset NAME, train (which it
    is inherited from), or default."""

    key: tuple[str, ...]
    value: Any
    origin: str


def resolved_settings(path: Path, overrides: tuple[str, ...] = ()) -> list[Resolved]:
    """In the order of the config's sections. UserError for a config that is not valid."""
    config = load_config(path, overrides)
    data, origins = resolve(read_settings(path, overrides))
    return list(_leaves(config, (), _Origin(data, origins, {o.partition("=")[0] for o in overrides})))


class _Origin:
    def __init__(self, data: Mapping[str, Any], origins: Origins, overridden: set[str]) -> None:
        self._data, self._origins, self._overridden = data, origins, overridden

    def of(self, key: tuple[str, ...]) -> str:
        dotted = ".".join(key)
        if any(dotted == name or dotted.startswith(f"{name}.") for name in self._overridden):
            return "--set"
        of_node = self._of_node(key)
        if of_node is not None:
            return of_node
        return "config" if _is_in(self._data, key) else "default"

    def _of_node(self, key: tuple[str, ...]) -> str | None:
        """Of a training's setting; None for another."""
        if key[0] in SECTIONS:
            name, rest = key[0], key[1:]
        elif key[0] == "trainings" and len(key) > 2:
            name, rest = key[1], key[2:]
        else:
            return None
        if name not in self._origins or not rest:
            return None
        own = self._origins[name]
        names = (".".join(rest), *_SHORT_FORMS.get(rest[0], (rest[0],)))
        found = next((own[name] for name in names if name in own), "default")
        return found if len(rest) == 1 or _is_in(self._data, key) else "default"


def _is_in(data: Any, key: tuple[str, ...]) -> bool:
    for name in key:
        if not isinstance(data, Mapping) or name not in data:
            return False
        data = data[name]
    return True


def _leaves(value: Any, key: tuple[str, ...], origin: _Origin) -> Iterator[Resolved]:
    if isinstance(value, Settings):
        for name in type(value).model_fields:
            yield from _leaves(getattr(value, name), (*key, name), origin)
    elif isinstance(value, dict) and value and all(isinstance(item, Settings) for item in value.values()):
        for name, item in value.items():
            yield from _leaves(item, (*key, str(name)), origin)
    elif key[-1] not in SECTIONS or value is not None:
        yield Resolved(key, _plain(value), origin.of(key))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Term):
        return value.of_fingerprint()
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def as_yaml(settings: list[Resolved]) -> str:
    """A config file of these settings, each with its origin as a comment."""
    lines: list[tuple[str, str]] = []
    open_sections: tuple[str, ...] = ()
    for key, value, origin in settings:
        *sections, name = key
        common = 0
        while common < min(len(sections), len(open_sections)) and sections[common] == open_sections[common]:
            common += 1
        lines += [(f"{'  ' * depth}{sections[depth]}:", "") for depth in range(common, len(sections))]
        open_sections = tuple(sections)
        lines.append((f"{'  ' * len(sections)}{name}: {json.dumps(value, ensure_ascii=False)}", origin))
    width = min(60, max((len(line) for line, origin in lines if origin), default=0))
    return "\n".join(f"{line:<{width}}  # {origin}" if origin else line for line, origin in lines)
