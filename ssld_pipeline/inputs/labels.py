"""Labels: what an input calls the classes of its images, and which classes of the run these names and numbers mean."""

from __future__ import annotations

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_NUMBER = re.compile(r"([0-9]{1,18})(?:\.0*)?")  # pandas writes integers as 1.0 where a column has gaps
_COUNTED = re.compile(r'([0-9]+) of (label|folder|archive) ("(?:[^"\\]|\\.)*")')
_NAMED = re.compile(r'(label|folder|archive) ("(?:[^"\\]|\\.)*") ')
_NO_LABEL = frozenset(["-1", "-1.0"])  # how Hugging Face numbers the images of a test split
_BY_NUMBER = ("numbers", "numbers_from_1")
_MOST_SHOWN = 20
_SUCH_AS = "; for example "


class Label(NamedTuple):
    """``kind``: label (written as one: a column, a list, a companion file), folder, or archive (the name of a tar)."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {json.dumps(self.text, ensure_ascii=False)}"


def composed(text: str) -> str:
    """The text in Unicode's composed form (NFC); macOS decomposes the names of files."""
    return unicodedata.normalize("NFC", text)


def number(text: str) -> int | None:
    """7 for "7", "007" and "7.0", else None."""
    found = _NUMBER.fullmatch(text)
    return int(found[1]) if found else None


def label_text(value: Any) -> str | None:
    """A label of a column or a JSON file as text, None for null and NaN; 1.0 and [1] are 1, b"cat" is cat."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None if math.isnan(value) else value
    if value is None:
        return None
    plain = isinstance(value, str | int | float) or not isinstance(value, list | tuple | dict)
    text = str(value) if plain else json.dumps(value, default=str, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode().strip() or None  # JSON can hold half a surrogate pair


class ClassList:
    """The run's classes, found by name or number. ``numbers``: see ``Shard.labels``."""

    def __init__(self, names: Sequence[str], labels: str = "auto") -> None:
        self._names, self._labels = names, labels
        self._ids = {composed(name): class_id for class_id, name in enumerate(names)}
        self._are_numbers = len({number(name) for name in names} - {None}) == len(names)
        self._by_number = self._numbers()
        self._near: dict[str, str | None] = {}

    def _numbers(self) -> Mapping[int, int]:
        """Number -> class. Where all classes are called by numbers, a number is a name, and 007 the name of class 7."""
        first = int(self._labels == "numbers_from_1")
        if self._labels not in _BY_NUMBER and self._are_numbers:
            return {n: class_id for class_id, name in enumerate(self._names) if (n := number(name)) is not None}
        return {class_id + first: class_id for class_id in range(len(self._names))}

    def find(self, labels: Iterable[Label]) -> int | None:
        """The class that the first telling label means: by name, or by number where numbers count.

        Numbers count where labels are written; in names of folders only where ``labels`` says so, and never in names
        of archives: img2dataset and webdataset call their shards 00001.tar.
        """
        for label in labels:
            class_id = self._find(label)
            if class_id is not None:
                return class_id
        return None

    def _find(self, label: Label) -> int | None:
        numbers_are_meant = self._labels in _BY_NUMBER
        by_name = self._ids.get(composed(label.text))
        if label.kind == "archive" or (label.kind == "folder" and not numbers_are_meant):
            return by_name
        value = number(label.text)
        by_number = None if value is None else self._by_number.get(value)
        return (by_name if value is None else by_number) if numbers_are_meant else _first(by_name, by_number)

    def is_absent(self, label: Label) -> bool:
        """Whether a written label says that there is none: -1, unless a class is called so."""
        return label.kind == "label" and label.text in _NO_LABEL and label.text not in self._ids

    def is_one_too_many(self, label: Label) -> bool:
        """Whether the label is N, the number of classes: the last one where numbers are counted from 1."""
        return label.kind == "label" and number(label.text) == len(self._names)

    def says(self, label: Label) -> str:
        """That the label names no class, with the nearest one."""
        return f"{label} names no class of the run{self.hint(label)}"

    def hint(self, label: Label) -> str:
        """What the label may mean, in brackets, after a space; empty where nothing is near."""
        if number(label.text) is not None and self._by_number and (label.kind == "label" or not self._are_numbers):
            return f" (numbers of classes are {min(self._by_number)} to {max(self._by_number)})"
        near = self._nearest(label.text)
        return f" (nearest class {json.dumps(near, ensure_ascii=False)})" if near else ""

    def _nearest(self, text: str) -> str | None:
        """None also where enough labels were compared: with 20,000 classes one takes up to a second."""
        if text not in self._near and len(self._near) < _MOST_SHOWN:
            self._near[text] = self._compare(text)
        return self._near.get(text)

    def _compare(self, text: str) -> str | None:
        by_folded = {composed(name).casefold(): name for name in reversed(self._names)}
        for cutoff in (0.6, 0.0):  # the second compares every name in full
            if found := difflib.get_close_matches(composed(text).casefold(), by_folded, n=1, cutoff=cutoff):
                return by_folded[found[0]]
        return None


def _first(*found: int | None) -> int | None:
    return next((class_id for class_id in found if class_id is not None), None)


def count_in_words(unknown: Mapping[Label, Sequence[str]], classes: ClassList) -> str:
    """How many images have labels that name no class, and which: the detail of one reject for a whole shard.

    ``unknown``: label -> image_ids.
    """

    def by_count(label: Label) -> tuple[bool, int]:
        return not classes.is_one_too_many(label), -len(unknown[label])  # one too many, of however few images, is shown

    shown = sorted(unknown, key=by_count)[:_MOST_SHOWN]
    labels = ", ".join(f"{len(unknown[label])} of {label}{classes.hint(label)}" for label in shown)
    num_images = sum(map(len, unknown.values()))
    return f"{num_images} images have a label that names no class of the run: {labels}{_SUCH_AS}{unknown[shown[0]][0]}"


class Counts(NamedTuple):
    """What the detail of a reject tells: ``num_images``, ``by_label`` (images), and an image_id, or nothing."""

    num_images: int
    by_label: dict[Label, int]
    example: str


def read_counts(detail: str) -> Counts:
    """Of ``count_in_words``, or of a reject that is one image."""
    labels, _, example = detail.rpartition(_SUCH_AS)
    if counted := _COUNTED.findall(labels):
        by_label = {Label(kind, json.loads(text)): int(count) for count, kind, text in counted}
        return Counts(int(detail.split(" ", 1)[0]), by_label, example)
    named = _NAMED.match(detail)
    return Counts(1, {Label(named[1], json.loads(named[2])): 1} if named else {}, "")
