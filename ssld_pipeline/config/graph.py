"""The graph of trainings: in which order its nodes are trained, which of them together, and its checks.

The sections ``train``, ``finetune`` and ``baseline`` are nodes of these names with defaults of their own; all others
are under ``trainings``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from ssld_pipeline.config.inherited import SECTIONS
from ssld_pipeline.config.inputs import TRAINED_ON_ROLES, InputConfig
from ssld_pipeline.config.student import StudentConfig
from ssld_pipeline.config.training import TrainingConfig
from ssld_pipeline.terms.class_term import ClassTerm

RESERVED = frozenset(
    (
        *("catalog", "index_protected", "check_dedupe", "guard_training", "find_copies", "look", "group_pool"),
        *("dedupe", "hold_out", "fit_teacher", "check_teacher", "label", "select", "evaluate"),
        *("duplicates", "pairs", "looks", "repeats", "soft_labels", "manifest", "evaluations", "rejects"),
        *("labeled", "protected", "pool", "teacher", "stored", "removals"),
    )
)
"""Names of stages, tables, roles and of what else stands where the name of a training may stand."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OF_ONE_PASS = ("batch_size", "images_per_norm", "seed", "image_size", "min_crop_area", "augment", "steps")


class Trainings(Protocol):
    """The part of a config that the graph reads."""

    @property
    def nodes(self) -> dict[str, TrainingConfig]: ...
    @property
    def trainings(self) -> dict[str, TrainingConfig]: ...
    @property
    def baseline(self) -> TrainingConfig | None: ...
    def named_inputs(self) -> dict[str, tuple[str, InputConfig]]: ...
    def network_of(self, name: str) -> StudentConfig | None: ...


def place_of(config: Trainings, name: str) -> str:
    """Where the settings of a node are in the config, for messages."""
    if name == "fit_teacher":
        return "teacher.fit"
    return name if name in SECTIONS and getattr(config, name) is not None else f"trainings.{name}"


def ordered(nodes: Mapping[str, TrainingConfig]) -> tuple[str, ...]:
    """The names of all nodes, each after those that it starts from or learns from; else as they are written.

    Nodes of one pass stand together, so that all that any of them needs is made before. ValueError for a cycle.
    """
    passes = {name: group for group in groups(nodes) for name in group}
    found: list[str] = []
    waiting: list[str] = []

    def visit(name: str) -> None:
        group = passes[name]
        if name in found:
            return
        if name in waiting:
            circle = " -> ".join([*waiting[waiting.index(name) :], name])
            raise ValueError(f"trainings form a cycle: {circle}; see init, teacher and together of each")
        waiting.extend(group)
        for member in group:
            for other in depends_on(nodes[member]):
                if other in nodes:
                    visit(other)
        del waiting[-len(group) :]
        found.extend(group)

    for name in nodes:
        visit(name)
    return tuple(found)


def takes_steps_of_others(config: Trainings, name: str) -> bool:
    """Whether the section ``baseline`` is meant, and does not say how long it trains."""
    own = config.baseline
    return name == "baseline" and own is not None and own.steps is None and "train" in config.nodes


def depends_on(node: TrainingConfig) -> tuple[str, ...]:
    """The nodes whose models it reads."""
    return tuple(name for name in (node.init_node, node.teacher_node) if name)


def groups(nodes: Mapping[str, TrainingConfig]) -> list[tuple[str, ...]]:
    """The nodes that are trained in one pass, each group in the order of the config; most are by themselves."""
    group = {name: {name} for name in nodes}
    for name, node in nodes.items():
        if node.together in nodes and node.together is not None:
            joined = group[name] | group[node.together]
            for member in joined:
                group[member] = joined
    found: list[tuple[str, ...]] = []
    for name in nodes:
        own = tuple(other for other in nodes if other in group[name])
        if own not in found:
            found.append(own)
    return found


def mistakes(config: Trainings) -> Iterator[str]:
    """Every mistake of the graph, as a line that names the key."""
    nodes = config.nodes
    yield from _bad_names(config)
    wrong = list(_unknown_names(config))
    yield from wrong
    if wrong:
        return
    try:
        ordered(nodes)
    except ValueError as error:
        yield str(error)
        return
    yield from _missing_networks(config)
    yield from _other_networks(config)
    yield from _nothing_to_keep(config)
    yield from _nothing_to_learn(config)
    yield from _different_passes(config)


def _bad_names(config: Trainings) -> Iterator[str]:
    for name in config.trainings:
        if name in SECTIONS and getattr(config, name) is not None:
            yield f"trainings.{name}: there is a section {name!r} too; give one of them"
        elif name in RESERVED or name in config.named_inputs():
            yield f"trainings.{name}: {name!r} already means something else here; choose another name"
        elif not _NAME.fullmatch(name):
            yield f"trainings.{name}: a name must be of a-z, 0-9 and _, and begin with a letter"


def _unknown_names(config: Trainings) -> Iterator[str]:
    nodes = config.nodes
    for name, node in nodes.items():
        place, others = place_of(config, name), [other for other in nodes if other != name]
        for key, value, more in (
            ("init", node.init_node, ["a weights file (with / or .)"]),
            ("teacher", node.teacher_node, ["teacher", "stored", "null"]),
            ("together", node.together, []),
        ):
            if value is not None and value not in others:
                if value == name:
                    yield f"{place}.{key}: {value!r} is this training itself"
                else:
                    yield f"{place}.{key}: {value!r} is no training; {_hint(value, others, more)}"
        yield from _unknown_data(config, place, node)


def _unknown_data(config: Trainings, place: str, node: TrainingConfig) -> Iterator[str]:
    if node.data in ("manifest", "labeled"):
        return
    inputs = config.named_inputs()
    labelled = [name for name, (role, _) in inputs.items() if role in TRAINED_ON_ROLES]
    if node.data in labelled:
        return
    role = inputs[node.data][0] if node.data in inputs else None
    if role == "protected":
        yield f"{place}.data: {node.data!r} is a protected input, and no training may read it"
    elif role == "pool":
        yield f"{place}.data: {node.data!r} is a pool, which has no labels; its mined images are in 'manifest'"
    else:
        known = dict.fromkeys(["manifest", "labeled", *labelled])
        yield f"{place}.data: {node.data!r} is no input; {_hint(node.data, known, [])}"


def _missing_networks(config: Trainings) -> Iterator[str]:
    missing = [place_of(config, name) for name in config.nodes if config.network_of(name) is None]
    if missing:
        yield f"student: missing, and no network is named in {', '.join(missing)}"


def _other_networks(config: Trainings) -> Iterator[str]:
    """A node that starts from another and names another network than that one's."""
    for name, node in config.nodes.items():
        start = config.network_of(node.init_node) if node.init_node else None
        own = node.student
        if start and own and (own.model, own.model_args) != (start.model, start.model_args):
            yield (
                f"{place_of(config, name)}.student is {own.model}, but init: {node.init} is {start.model}; "
                f"leave student out, or start from a training of the same network"
            )


def _nothing_to_keep(config: Trainings) -> Iterator[str]:
    for name, node in config.nodes.items():
        network = config.network_of(name)
        if node.head == "keep" and node.init is None and network is not None and network.weights is None:
            yield (
                f"{place_of(config, name)}.head: keep, but it starts from no weights; name them in init or in "
                f"student.weights, or leave head out"
            )


def _nothing_to_learn(config: Trainings) -> Iterator[str]:
    """Images that teach nothing, and a baseline without a length."""
    inputs = config.named_inputs()
    for name, node in config.nodes.items():
        place = place_of(config, name)
        if node.data == "manifest" and all(isinstance(t, ClassTerm) and t.rows == "labeled" for t in node.objective):
            names = ", ".join(dict.fromkeys(term.name for term in node.objective))
            yield (
                f"{place}.objective: {names} learns nothing from the mined images of data: manifest; set rows: all, or "
                f"data: labeled"
            )
        if node.replays and node.data in inputs and inputs[node.data][0] == "teacher":
            yield (
                f"{place}.teacher: stored, but of {node.data!r}, which is teacher.fit.data, no views are stored; take "
                f"another teacher or other data"
            )
    own = config.baseline
    if own is not None and "train" not in config.nodes and not {"steps", "epochs"} & own.model_fields_set:
        yield "baseline.steps: missing, since there is no train whose length it could have"


def _different_passes(config: Trainings) -> Iterator[str]:
    """Nodes that are to be trained together, and cannot."""
    nodes = config.nodes
    for first, *others in groups(nodes):
        for other in others:
            one, two = nodes[first], nodes[other]
            if any(takes_steps_of_others(config, name) for name in (first, other)):
                yield (
                    f"baseline.steps: missing; without it a baseline has the length of train and finetune, and cannot "
                    f"be trained together with {(first if other == 'baseline' else other)!r}"
                )
            keys = ["data", "teacher", *_OF_ONE_PASS]
            keys += ["teacher_batch_norm"] if one.teacher else []
            keys += ["epochs"] if one.steps is None else []
            for key in keys:
                if getattr(one, key) != getattr(two, key):
                    setting = "norm_batch" if key == "images_per_norm" else key
                    yield (
                        f"{place_of(config, other)}.{setting} is {getattr(two, key)}, but {first!r}, with which it is "
                        f"trained together, has {getattr(one, key)}; make them equal, or leave together out"
                    )


def _hint(name: str, known: Iterable[str], more: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join([*known, *more])}" if [*known, *more] else "there is no other"
