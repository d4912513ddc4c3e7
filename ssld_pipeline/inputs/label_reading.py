"""Decide for a whole input how its labels name classes, from its listing."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pyarrow.compute as pc
import pyarrow.types as types

from ssld_pipeline.inputs import parquet
from ssld_pipeline.inputs.candidates import LABELLED_ROLES
from ssld_pipeline.inputs.labels import composed, number
from ssld_pipeline.inputs.names import stem
from ssld_pipeline.inputs.shard import Shard


def with_labels(shards: Sequence[Shard], classes: tuple[str, ...], labels: str = "auto") -> list[Shard]:
    """The shards of one input, each with its ``labels``. ``labels``: as the config says.

    The digest of a shard changes only if its labels are more than exact names and numbers of classes. So a catalog
    made before labels were read in more ways stays valid where its labels were right.
    """
    if not shards or shards[0].role not in LABELLED_ROLES:
        return list(shards)
    how = labels if labels != "auto" else _found(shards, classes)
    numbered = _parquet_numbers(shards[0], classes) if shards[0].format == "parquet" and labels == "auto" else ""
    is_plain = _plainness(classes)
    return [
        replace(s, labels=how, digest=s.digest if is_plain(s, how) and not numbered else _of(s, how, numbered))
        for s in shards
    ]


def _found(shards: Sequence[Shard], classes: tuple[str, ...]) -> str:
    """Folders are numbers only if they are exactly 0 to N-1 for the run's N classes. With fewer of them, counting from
    1 or another class list would look the same."""
    known = {composed(name) for name in classes}
    if shards[0].format == "folder":
        folders = {name for shard in shards for name in _folders(shard)}
        all_numbers = {str(class_id) for class_id in range(len(classes))}
        return "numbers" if folders == all_numbers and not folders & known else "auto"
    if shards[0].format == "tar":
        return "archives" if any(composed(_archive(shard)) in known for shard in shards) else "auto"
    return "auto"


def _plainness(classes: tuple[str, ...]) -> Callable[[Shard, str], bool]:
    """Whether each label is the name of a class to the byte or its number, as far as a listing tells."""
    known, num = frozenset(classes), len(classes)
    are_numbers = all(number(name) is not None for name in classes)
    is_usual = all(name.isascii() for name in classes) and not (are_numbers and known != set(map(str, range(num))))

    def is_number(text: str) -> bool:
        value = number(text) if text.isdigit() and not are_numbers else None
        return value is not None and value < num

    def is_plain(shard: Shard, how: str) -> bool:
        if how not in ("auto", "archives"):
            return False
        if shard.format == "folder":
            return known.issuperset(_folders(shard))
        if shard.format == "list":
            found = pc.unique(shard.listing["label"]).to_pylist()
            return all(text is None or text in known or is_number(text) for text in found)
        return is_usual and (how == "auto" or _archive(shard) in known)

    return is_plain


def _parquet_numbers(shard: Shard, classes: tuple[str, ...]) -> str:
    """What the label column needs beyond names and numbers of the run; files of an input have one schema."""
    schema = parquet.schema_of(shard)
    columns = None if schema is None else parquet.find_columns(schema)
    if schema is None or columns is None or columns.label is None:
        return ""
    kind = schema.field(columns.label).type
    is_plain = types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)
    same = [composed(name) for name in columns.names] in ([], [composed(name) for name in classes])
    is_plain = is_plain and columns.label in parquet.LABEL_COLUMNS
    return "" if is_plain and same else json.dumps([columns.label, str(kind), columns.names])


def _of(shard: Shard, how: str, numbered: str) -> str:
    return hashlib.sha256(json.dumps([shard.digest, how, numbered]).encode()).hexdigest()


def _folders(shard: Shard) -> Iterable[str]:
    """The first folders within the input."""
    first = pc.list_element(pc.split_pattern(shard.listing["relative"], "/", max_splits=1), 0)
    is_nested = pc.match_substring(shard.listing["relative"], "/")
    found: list[str] = pc.unique(first.filter(is_nested)).to_pylist()
    return found


def _archive(shard: Shard) -> str:
    return posixpath.basename(stem(shard.listing["relative"][0].as_py()))
