"""The whole config: its sections, and every check of one section against another.

Two kinds of settings live in two places: what can change a value (every section but one) and where and how fast it
runs (``placement``, which is part of no fingerprint).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, model_validator

from ssld_pipeline.config.catalog import CatalogConfig
from ssld_pipeline.config.dedupe import DedupeConfig
from ssld_pipeline.config.graph import mistakes, ordered, place_of
from ssld_pipeline.config.inherited import SECTIONS, resolve
from ssld_pipeline.config.inputs import TRAINED_ON_ROLES, InputConfig, InputsConfig
from ssld_pipeline.config.label import LabelConfig
from ssld_pipeline.config.placement import PlacementConfig
from ssld_pipeline.config.recipe import RecipeSettings
from ssld_pipeline.config.select import SelectConfig
from ssld_pipeline.config.settings import Settings
from ssld_pipeline.config.student import StudentConfig
from ssld_pipeline.config.teacher import TeacherConfig
from ssld_pipeline.config.training import TrainingConfig


class RunConfig(Settings):
    workspace: str
    """Where tables and models are written: a local path or an fsspec URI."""
    inputs: InputsConfig
    """Images by role. Each role has one input or a list of them."""
    classes: str | None = None
    """Text file; line i names class i. Default: the sorted class folders of `labeled`."""
    teacher: TeacherConfig
    """The network that labels the pool and that the student is distilled from."""
    catalog: CatalogConfig = CatalogConfig()
    """How the inputs are cut into parts."""
    dedupe: DedupeConfig = DedupeConfig()
    """What counts as a copy of a protected image."""
    label: LabelConfig = LabelConfig()
    """How the teacher's predictions are stored."""
    select: SelectConfig = SelectConfig()
    """Which pool images the student is trained on."""
    student: StudentConfig | None = None
    """The network of every training that names none."""
    trainings: dict[str, TrainingConfig] = Field(default_factory=dict)
    """Trainings by name: as many networks as you like, each with its own start, data, teacher and recipe."""
    train: TrainingConfig | None = None
    """The training of this name: by default, distil the student on the labelled and the mined images. Left out: all
    its defaults, or no such training where there are `trainings`."""
    finetune: TrainingConfig | None = None
    """The training of this name: distil the model of train once more, on the labelled images only. Absent keys are
    inherited from train; null: no such training."""
    baseline: TrainingConfig | None = None
    """The training of this name: the same student on the labelled images only, with hard labels, for as many steps as
    train and finetune together unless it has `steps` (its `epochs` are not used). Absent keys are inherited from train.
    Shows what the pool is worth. null: no such training."""
    placement: PlacementConfig = PlacementConfig()
    """Where and how fast. Part of no fingerprint; changes no result, except as train_workers says."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_trainings(cls, data: Any) -> Any:
        return resolve(data)[0] if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        conflicts = [
            *self._missing_inputs(),
            *self._repeated_names(),
            *self._same_folders(),
            *self._labels_not_read(),
            *self._unknown_inputs(),
            *self._missing_weights(),
            *mistakes(self),
            *self._baseline_with_teacher(),
            *self._uneven_batches(),
            *self._other_views(),
            *self._missing_probabilities(),
        ]
        if conflicts:
            raise ValueError("\n  ".join(conflicts))
        return self

    def _missing_inputs(self) -> Iterator[str]:
        for role in ("labeled", "protected", "pool"):
            if not getattr(self.inputs, role):
                yield f"inputs.{role}: missing. Every run needs a labeled, a protected and a pool input"

    def _repeated_names(self) -> Iterator[str]:
        counts = Counter(name for name, _, _ in self._inputs())
        for name, role, _ in self._inputs():
            if counts.pop(name, 1) > 1:
                yield (
                    f"inputs.{role}: two inputs are called {name!r}; image_id must be unique, so give each a 'name:'"
                )
            if name != role and name in ("labeled", "protected", "pool", "teacher"):
                yield f"inputs.{role}: an input may not be called {name!r}, as another role is; give it another name"

    def _same_folders(self) -> Iterator[str]:
        """Of a protected input and one that is trained on."""
        guarded = {os.path.normpath(item.uri): name for name, role, item in self._inputs() if role == "protected"}
        for name, role, item in self._inputs():
            other = guarded.get(os.path.normpath(item.uri))
            if other and role in TRAINED_ON_ROLES and self.dedupe.trained_on != "report_only":
                yield (
                    f"inputs {name!r} and {other!r} are the same folder, {item.uri}: networks would be trained on the "
                    f"protected images; name another one"
                )

    def _labels_not_read(self) -> Iterator[str]:
        for name, role, item in self._inputs():
            if item.labels == "none" and role in TRAINED_ON_ROLES:
                yield f"inputs.{role}: {name!r} has 'labels: none', but the run needs its labels; take that out"

    def _unknown_inputs(self) -> Iterator[str]:
        """In ``dedupe``: names of no input, and inputs that are reported but not searched."""
        known = {name for name, _, _ in self._inputs()} | {"labeled", "protected"}
        for setting in ("against", "report_only"):
            for entry in getattr(self.dedupe, setting):
                if entry not in known:
                    yield (
                        f"dedupe.{setting}: {entry!r} is neither a role nor an input; known: {', '.join(sorted(known))}"
                    )
        searched = set(self.inputs_of(self.dedupe.against))
        for entry in self.dedupe.report_only:
            if entry in known and not set(self.inputs_of((entry,))) <= searched:
                yield (
                    f"dedupe.report_only: copies of {entry!r} are not searched, since dedupe.against has only "
                    f"[{', '.join(self.dedupe.against)}]; add {entry!r} to it, or take it out of report_only"
                )

    def _missing_weights(self) -> Iterator[str]:
        if self.teacher.weights is None and self.teacher.fit is None:
            yield (
                "teacher.weights is null and there is no teacher.fit: labels would come from random weights; give a "
                "weights file, or a teacher.fit section that trains one on the labeled images"
            )

    def _baseline_with_teacher(self) -> Iterator[str]:
        if self.baseline is not None and self.baseline.teacher is not None:
            yield "baseline.teacher must be null, since a baseline learns from labels only; name another training"

    def _uneven_batches(self) -> Iterator[str]:
        """``local`` trains in one process."""
        if self.placement.runner != "ray":
            return
        for name, recipe in self.recipes().items():
            place, parts = place_of(self, name), recipe.num_micro_batches
            if self.placement.workers_for(parts):
                continue
            workers = self.placement.train_workers
            wanted = workers if isinstance(workers, int) else f"{workers[0]} to {workers[1]}"
            yield (
                f"placement.train_workers: {wanted} training processes cannot share the {parts} norm batches of "
                f"{place} (batch_size {recipe.batch_size} / norm_batch {recipe.images_per_norm}); it must divide "
                f"{parts}: lower {place}.norm_batch, or take fewer processes"
            )

    def _other_views(self) -> Iterator[str]:
        """Stored views that are not those a training asks for."""
        for name, node in self._replaying():
            place = place_of(self, name)
            if self.label.views == 0:
                yield f"{place}.teacher: stored needs stored views; set label.views to 1 or more"
            if node.image_size != self.teacher.image_size and node.mismatched_views == "refuse":
                yield (
                    f"{place}.image_size is {node.image_size}, but the stored labels are of views of "
                    f"{self.teacher.image_size} pixels (teacher.image_size); make them equal, or set "
                    f"{place}.mismatched_views: accept"
                )
            if node.teacher_batch_norm == "train":
                yield f"{place}.teacher_batch_norm: stored labels are made with the running statistics; set it to eval"
            if node.min_crop_area != self.label.view_min_crop_area:
                yield (
                    f"{place}.min_crop_area is {node.min_crop_area}, but the stored views were cut with "
                    f"label.view_min_crop_area {self.label.view_min_crop_area}; make them equal"
                )

    def _missing_probabilities(self) -> Iterator[str]:
        """``select`` reads no more classes of an image than ``label`` keeps."""
        select, num_kept = self.select, self.label.num_kept
        if (select.assignment == "top_p" or select.min_per_class) and select.top_p > num_kept:
            yield f"select.top_p must be at most label.num_kept ({num_kept}), got {select.top_p}"

    @property
    def nodes(self) -> dict[str, TrainingConfig]:
        """The trainings by name: those with a section of their own, then the others as they are written."""
        sections = {name: getattr(self, name) for name in SECTIONS}
        return {name: node for name, node in sections.items() if node is not None} | self.trainings

    def ordered_nodes(self) -> dict[str, TrainingConfig]:
        """The same, each after those whose models it reads."""
        nodes = self.nodes
        return {name: nodes[name] for name in ordered(nodes)}

    def network_of(self, name: str) -> StudentConfig | None:
        """The network of a training: its own, that of the training it starts from, or the top-level one."""
        node = self.nodes[name]
        if node.student is not None:
            return node.student
        return self.network_of(node.init_node) if node.init_node else self.student

    def recipes(self) -> dict[str, RecipeSettings]:
        """How each network is trained, by the stage that trains it: the teacher's fit, and all trainings."""
        fit: dict[str, RecipeSettings] = {"fit_teacher": self.teacher.fit} if self.teacher.fit else {}
        return {**fit, **self.nodes}

    def replays_views(self) -> bool:
        """Whether a student is trained on stored views."""
        return bool(self._replaying())

    def needs_exact_tails(self) -> tuple[str, ...]:
        """Names of the trainings that learn symmetric_kl from stored labels.

        It takes the logarithm of the tail. Where the teacher is sure, a tail that also holds the rounding of the kept
        classes puts its gradient 29 % off, the exact one 4 % (benchmarks/RESULTS.md).
        """
        return tuple(
            name for name, node in self._replaying() if any(term.name == "symmetric_kl" for term in node.objective)
        )

    def named_inputs(self) -> dict[str, tuple[str, InputConfig]]:
        """Input name -> (role, input), in the order of the file; ``teacher`` is ``teacher.fit.data``."""
        return {name: (role, item) for name, role, item in self._inputs()}

    def inputs_of(self, roles: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the inputs that a list of roles or names means."""
        return tuple(name for name, (role, _) in self.named_inputs().items() if role in roles or name in roles)

    def guards(self) -> tuple[str, ...]:
        """Names of the protected inputs no copy of which may be trained on."""
        searched, reported = (set(self.inputs_of(names)) for names in (self.dedupe.against, self.dedupe.report_only))
        return tuple(name for name in self.inputs_of(("protected",)) if name in searched - reported)

    def _replaying(self) -> list[tuple[str, TrainingConfig]]:
        return [(name, node) for name, node in self.nodes.items() if node.replays]

    def _inputs(self) -> list[tuple[str, str, InputConfig]]:
        """(name, role, input) in the order of the file."""
        roles = [("labeled", self.inputs.labeled), ("protected", self.inputs.protected), ("pool", self.inputs.pool)]
        if self.teacher.fit and self.teacher.fit.data:
            roles.append(("teacher", (self.teacher.fit.data,)))
        return [(item.name or role, role, item) for role, inputs in roles for item in inputs]
