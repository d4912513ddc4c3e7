"""A student that learns, from a frozen teacher or from labels: one optimiser step, and its state as tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssld_pipeline.config.recipe import RecipeSettings
from ssld_pipeline.models.build import build
from ssld_pipeline.models.classifier import classifier_keys
from ssld_pipeline.models.preprocessing import normalise
from ssld_pipeline.terms.term import Signals
from ssld_pipeline.training.data import Batch
from ssld_pipeline.training.group import Group
from ssld_pipeline.training.job import OnlineTeacher, TrainJob
from ssld_pipeline.training.stored_labels import logits_of

_STUDENT, _MOMENTUM = "student.", "momentum."
_BATCH_NORMS = nn.modules.batchnorm._BatchNorm


class Learner:
    """Student, teacher and optimiser on one device; ``amp``: bfloat16 autocast, on a GPU alone."""

    def __init__(self, job: TrainJob, group: Group, amp: bool) -> None:
        self._job, self._settings, self._group = job, job.settings, group
        self.amp = amp and group.device != "cpu"  # a CPU without bfloat16 instructions is many times slower with it
        torch.manual_seed(self._settings.seed)
        self.student = _place(build(job.student), group.device)
        self._teacher = _Teacher(job.teacher, group) if isinstance(job.teacher, OnlineTeacher) else None
        if self._settings.trainable == "classifier":
            _freeze_all_but_classifier(self.student)
        groups = parameter_groups(self.student, self._settings)
        self._optimizer = torch.optim.SGD(groups, lr=0.0, momentum=self._settings.momentum, nesterov=False)
        parallel = nn.parallel.DistributedDataParallel
        self._wrapped: nn.Module = parallel(self.student) if group.size > 1 else self.student

    def step(self, number: int, lr: float, batch: Batch) -> Tensor:
        """The loss of this rank's share of the batch before the update, detached, on the device."""
        # Dropout must be the same when this step is made again after a resume, and another on every rank.
        torch.manual_seed(hash((self._settings.seed, number, self._group.rank)) & 0x7FFFFFFF)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = lr
        if self._settings.trainable == "all":
            self.student.train()
        views = torch.from_numpy(batch.views).to(self._group.device)
        with torch.autocast(self._group.device, torch.bfloat16, enabled=self.amp):
            teacher = self._teacher_logits(views, batch)
            logits = self._wrapped(normalise(views, self._job.student.mean, self._job.student.std))
        loss = self._loss(logits, teacher, batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def _teacher_logits(self, views: Tensor, batch: Batch) -> Tensor | None:
        if batch.labels is not None:
            return logits_of(batch.labels, self._job.student.num_classes, self._group.device)
        return None if self._teacher is None else self._teacher.logits(views)

    def _loss(self, logits: Tensor, teacher: Tensor | None, batch: Batch) -> Tensor:
        ids = [torch.from_numpy(numbers).to(self._group.device) for numbers in (batch.class_ids, batch.mined_ids)]
        signals = Signals(logits, teacher, *ids)
        loss = torch.zeros((), device=self._group.device)
        for term in self._job.objective:
            per_row, counted = term.per_row(signals), term.counted(*ids)
            if counted is not None:
                loss = loss + term.weight * torch.where(counted, per_row, 0).sum() / counted.sum().clamp(min=1)
            else:
                loss = loss + term.weight * per_row.mean()
        return loss

    def depends_on_share(self) -> bool:
        """Whether a batch norm computes with the statistics of this process's images, so that their number is part of
        the recipe."""
        learning = self.student.modules() if self._settings.trainable == "all" else ()
        teaching = (m for m in self._teacher.model.modules() if m.training) if self._teacher else ()
        return any(isinstance(module, _BATCH_NORMS) for module in (*learning, *teaching))

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on besides its number and its batch, on the CPU.

        The teacher is not among them: its batch norm either keeps its running statistics or does not read them.
        """
        found = {_STUDENT + name: tensor for name, tensor in self.student.state_dict().items()}
        for number, parameter in enumerate(self._parameters()):
            if (buffer := self._optimizer.state[parameter].get("momentum_buffer")) is not None:
                found[f"{_MOMENTUM}{number}"] = buffer
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        own = {name.removeprefix(_STUDENT): t for name, t in tensors.items() if name.startswith(_STUDENT)}
        self.student.load_state_dict(own)
        for number, parameter in enumerate(self._parameters()):
            if (buffer := tensors.get(f"{_MOMENTUM}{number}")) is not None:
                # empty_like: in the parameter's memory format, on its device
                self._optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]


def parameter_groups(model: nn.Module, settings: RecipeSettings) -> list[dict[str, Any]]:
    """Trainable parameters, with weight decay, and without it (norms and biases) where the settings spare them."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    spared = [p for p in trainable if p.ndim <= 1 and not settings.weight_decay_norm]
    decayed = [p for p in trainable if p.ndim > 1 or settings.weight_decay_norm]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _place(model: nn.Module, device: str) -> nn.Module:
    placed: nn.Module = model.to(memory_format=torch.channels_last)
    return placed.to(device)


class _Teacher:
    def __init__(self, teacher: OnlineTeacher, group: Group) -> None:
        self._spec, self.model = teacher.spec, _frozen_teacher(teacher, group.device)

    def logits(self, views: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.model(normalise(views, self._spec.mean, self._spec.std))
        return logits


def _frozen_teacher(teacher: OnlineTeacher, device: str) -> nn.Module:
    """Dropout and drop path off; batch norm on the batch's own statistics where the job says so."""
    model = _place(build(teacher.spec), device).requires_grad_(False).eval()
    if teacher.batch_norm == "train":
        for module in model.modules():
            if isinstance(module, _BATCH_NORMS):
                module.train()
    return model


def _freeze_all_but_classifier(model: nn.Module) -> None:
    """Batch norm included: the whole network stays in eval mode, and no gradient passes the classifier."""
    head = classifier_keys(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)
    model.eval()
