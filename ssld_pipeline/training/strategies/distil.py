"""distil: students learn from a frozen teacher, from its stored labels, or from classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssld_pipeline.terms.term import Signals
from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.frozen_teacher import FrozenTeacher
from ssld_pipeline.training.group import Group
from ssld_pipeline.training.job import OnlineTeacher
from ssld_pipeline.training.network import TrainedNetwork, new_student
from ssld_pipeline.training.objective import Objective
from ssld_pipeline.training.shares import require_norm_batch
from ssld_pipeline.training.stored_labels import logits_of
from ssld_pipeline.training.strategies.strategy import Member
from ssld_pipeline.training.views_on_device import Views


class Distil:
    """One forward pass of the teacher serves all students, which know nothing of each other."""

    def __init__(self, members: Sequence[Member], group: Group, execution: Execution) -> None:
        jobs = [member.job for member in members]
        self._settings, self._device = jobs[0].settings, group.device
        self._num_classes = jobs[0].student.num_classes
        self._objectives = [Objective(job.objective, job.settings.batch_size, group) for job in jobs]
        self.students: list[TrainedNetwork] = []
        self._teacher: FrozenTeacher | None = None
        if isinstance(teacher := jobs[0].teacher, OnlineTeacher):
            torch.manual_seed(self._settings.seed)  # one without weights, as in measurements, is the same everywhere
            self._teacher = FrozenTeacher(teacher, self._settings.images_per_norm, group.device, execution)
        for job, member in zip(jobs, members, strict=True):
            student = new_student(job.student, job.settings, member.lr_of, group, execution)
            self.students.append(student)
            require_norm_batch(job, student.has_batch_norm, self._teacher is not None and self._teacher.has_batch_norm)
        self._per_pass = min(student.norm_batches_per_pass for student in self.students)

    def step(self, number: int, views: Views) -> Tensor:
        norm_batch = self._settings.images_per_norm
        counted = [objective.num_counted(views.class_ids, views.mined_ids) for objective in self._objectives]
        for student in self.students:
            student.begin(number)
        parts = list(views.parts(norm_batch, self._per_pass))
        losses = [self._learn(number, part, counted, last=part is parts[-1]) for part in parts]
        for student in self.students:
            student.update()
        return torch.cat(losses, dim=1)

    def _learn(self, number: int, part: Views, counted: Sequence[Sequence[Tensor | int]], last: bool) -> Tensor:
        teacher = self._teacher_logits(part)
        losses = []
        for student, objective, rows in zip(self.students, self._objectives, counted, strict=True):
            signals = Signals(student.logits(number, part), teacher, part.class_ids, part.mined_ids)
            own = objective.losses(signals, rows, self._settings.images_per_norm)
            student.backward(own.sum(), last)
            losses.append(own.detach())
        return torch.stack(losses)

    def _teacher_logits(self, part: Views) -> Tensor | None:
        if part.labels is not None:
            return logits_of(part.labels, self._num_classes, self._device)
        return None if self._teacher is None else self._teacher.logits(part.pixels)

    def tensors(self, member: int) -> dict[str, Tensor]:
        """The teacher is not among them: its batch norm keeps its running statistics or does not read them."""
        return self.students[member].tensors()

    def restore(self, member: int, tensors: dict[str, Tensor]) -> None:
        self.students[member].restore(tensors)
