"""Published recipes: files with the keys of one training and the source of each figure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml


def read_preset(name: str) -> dict[str, Any]:
    """The keys of a preset. ValueError, with the nearest name, where there is none of this name."""
    known = preset_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise ValueError(f"no preset is called {name!r}; {hint}")
    content = yaml.safe_load(_folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    return dict(content)


def preset_names() -> list[str]:
    """All of them, sorted, such as ``resnet50_vd/stage1``."""
    return sorted(_names(_folder(), ""))


def describe_preset(name: str) -> str:
    """The first line of its file: which network, which stage, and what it reached."""
    text = _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return text.split("\n", 1)[0].removeprefix("# ")


def _names(folder: Traversable, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _names(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml")


def _folder() -> Traversable:
    return files("ssld_pipeline").joinpath("presets")
