"""The training loop: knows torch.distributed, not Ray; alone in a process it is a group of one.

Everything random is a function of (seed, epoch, place) or (seed, step, rank), and a checkpoint holds what else there is,
so a run that is killed and started again ends with the weights of a run that was not.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.divergences import objective
from ssld_pipeline.models.build import build
from ssld_pipeline.models.card import config_json
from ssld_pipeline.models.classifier import classifier_keys
from ssld_pipeline.models.predict import Predictor
from ssld_pipeline.models.preprocessing import normalise
from ssld_pipeline.models.spec import ModelSpec
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.training.data import Batch, TrainImages, read_rows
from ssld_pipeline.training.evaluate import evaluate
from ssld_pipeline.training.folder import MetricsLog, TrialFolder
from ssld_pipeline.training.job import TrainJob
from ssld_pipeline.training.schedule import lr_at, num_steps, num_warmup_steps, steps_per_epoch, validation_steps
from ssld_pipeline.training.settings import TrainSettings

_LOG_ROWS = 200
_EVALUATION_BATCH = {"cpu": 16, "cuda": 256}
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Means:
    """Where and how fast a job runs; nothing here changes a result beyond floating point."""

    num_threads: int = 1
    loader_threads: int = 2
    device: str = "cpu"
    amp: bool = False
    checkpoint_every_s: float = 600


def fit(
    job: TrainJob, folder: str, *, fingerprint: str, means: Means | None = None, report: Report | None = None
) -> dict[str, Any]:
    """Train ``job`` and leave student.safetensors, config.json and metrics.jsonl in ``folder`` (a path or fsspec URI).

    All processes of an initialised torch.distributed group call it with the same arguments; each returns the final
    metrics: the last loss, ``validation_top1`` and ``validation_top5`` where there is validation, ``steps``, and
    ``rejects`` (image_id, reason, detail of images that could not be used). Goes on from the newest checkpoint of
    ``fingerprint`` in ``folder``. ``report`` is given every row of metrics. UserError where the job cannot be trained.
    """
    place = TrialFolder(folder)
    done = place.read("final.json")
    if done is not None and json.loads(done)["fingerprint"] == fingerprint:
        return dict(json.loads(done)["metrics"])
    means = means or Means()
    torch.set_num_threads(means.num_threads)
    return _Trial(job, place, fingerprint, means, report or (lambda row: None)).run()


class _Trial:
    def __init__(self, job: TrainJob, folder: TrialFolder, fingerprint: str, means: Means, report: Report) -> None:
        self.job, self.settings, self.folder, self.fingerprint, self.means, self.report = (
            job, job.settings, folder, fingerprint, means, report)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        rows = read_rows(job.tables, job.roles, labelled=job.settings.loss == "ce")
        self.images = TrainImages(rows, job.settings, self.rank, self.world_size)
        self.validation = read_rows(job.validation, ("protected",), labelled=True) if job.validation else None
        self.per_epoch = steps_per_epoch(job.settings, len(rows))
        self.total = num_steps(job.settings, len(rows))
        self.warmup = num_warmup_steps(job.settings, len(rows))
        self._build()

    def _build(self) -> None:
        torch.manual_seed(self.settings.seed)
        self.student = _place(build(self.job.student), self.means.device)
        self.teacher = _frozen_teacher(self.job.teacher, self.settings, self.means.device) if self.job.teacher else None
        if self.settings.trainable == "classifier":
            _freeze_all_but_classifier(self.student)
        self.optimizer = torch.optim.SGD(
            parameter_groups(self.student, self.settings), lr=0.0, momentum=self.settings.momentum, nesterov=False
        )
        self.loss = _objective(self.settings)
        self.wrapped: nn.Module = self.student
        if self.world_size > 1:
            self.wrapped = nn.parallel.DistributedDataParallel(self.student)

    def run(self) -> dict[str, Any]:
        step = self._restore()
        self.log = MetricsLog(self.folder, step)
        if step:
            self._log(step, resumed_at=step)
        self._train(step)
        metrics = {"steps": self.total, "num_images": len(self.images.rows), **self._last_figures(),
                   "rejects": [asdict(r) for r in self._all_rejects()]}
        if self.rank == 0:
            self._save_model()
            self.log.flush()
            self.folder.write("final.json", json.dumps({"fingerprint": self.fingerprint, "metrics": metrics}).encode())
            self.folder.remove_checkpoints()
        return metrics

    def _train(self, first: int) -> None:
        every, validations = max(1, self.total // _LOG_ROWS), validation_steps(self.settings, self.total)
        summed, counted, since, saved = torch.zeros((), device=self.means.device), 0, time.monotonic(), time.monotonic()
        batches = self.images.batches(first, self.total, self.means.loader_threads)
        with contextlib.closing(batches):
            for step, batch in enumerate(batches, start=first):
                summed += self._step(step, batch)
                counted, done = counted + 1, step + 1
                if done % every == 0 or done == self.total or done == 1:
                    loss, seconds = self._mean_loss(summed, counted, done), time.monotonic() - since
                    self._log(done, epoch=done / self.per_epoch, loss=loss, lr=self.optimizer.param_groups[0]["lr"],
                              images_per_s=counted * self.settings.batch_size / seconds)
                    summed, counted, since = torch.zeros_like(summed), 0, time.monotonic()
                if done in validations and self.validation is not None:
                    self._validate(done)
                    since = time.monotonic()
                if self._is_time(saved) and done < self.total:
                    self._save(done)
                    saved = time.monotonic()

    def _step(self, step: int, batch: Batch) -> Tensor:
        """The loss of one optimiser step, detached."""
        torch.manual_seed(hash((self.settings.seed, step, self.rank)) & 0x7FFFFFFF)  # dropout, the same after a resume
        views = torch.from_numpy(batch.views).to(self.means.device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(step, self.settings.lr, self.warmup, self.total)
        if self.settings.trainable == "all":
            self.student.train()
        with torch.autocast(self.means.device, torch.bfloat16, enabled=self.means.amp and self.means.device != "cpu"):
            target = self._target(views, batch)
            logits = self.wrapped(normalise(views, self.job.student.mean, self.job.student.std))
        loss = self.loss(logits, target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _target(self, views: Tensor, batch: Batch) -> Tensor:
        if self.teacher is None:
            return torch.from_numpy(batch.class_ids).to(self.means.device)
        assert self.job.teacher is not None
        with torch.no_grad():
            logits: Tensor = self.teacher(normalise(views, self.job.teacher.mean, self.job.teacher.std))
        return logits

    def _mean_loss(self, summed: Tensor, counted: int, step: int) -> float:
        """Over the steps since the last row and over all ranks; every rank sees the same and stops together."""
        mean = summed / counted
        if self.world_size > 1:
            dist.all_reduce(mean)
            mean /= self.world_size
        loss = float(mean)
        if not torch.isfinite(mean):
            raise UserError(
                f"{self.job.stage}: the loss is {loss} at step {step} of {self.total} (lr {self.optimizer.param_groups[0]['lr']:.4g}). "
                "Try a smaller lr or a longer warm-up, and see that the teacher's mean and std are its own"
            )
        return loss

    def _validate(self, step: int) -> None:
        assert self.validation is not None
        self.student.eval()
        predictor = Predictor(self.job.student, self.student, self.means.device, self.means.amp, _EVALUATION_BATCH[self.means.device])
        found = evaluate(predictor, self.validation, self.settings.image_size, self.settings.crop_pct,
                         self.means.loader_threads, self.rank, self.world_size)
        self._log(step, epoch=step / self.per_epoch, validation_top1=found["top1"], validation_top5=found["top5"])

    def _log(self, step: int, **row: Any) -> None:
        self.log.add(step=step, **row)
        if self.rank == 0:
            self.log.flush()
            self.report({"step": step, **row})

    def _last_figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for row in self.log.rows:
            found |= {name: row[name] for name in ("loss", "validation_top1", "validation_top5") if name in row}
        return found

    def _is_time(self, saved: float) -> bool:
        """Rank 0's clock decides for all, since a checkpoint is made between the same two steps everywhere."""
        due = time.monotonic() - saved > self.means.checkpoint_every_s
        if self.world_size > 1:
            flag = torch.tensor(int(due), device=self.means.device)
            dist.broadcast(flag, 0)
            return bool(flag.item())
        return due

    def _save(self, step: int) -> None:
        rejects = [asdict(r) for r in self._all_rejects()]
        if self.rank == 0:
            tensors = {f"student.{k}": v for k, v in self.student.state_dict().items()}
            for number, parameter in enumerate(self._parameters()):
                buffer = self.optimizer.state[parameter].get("momentum_buffer")
                if buffer is not None:
                    tensors[f"momentum.{number}"] = buffer
            tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            self.log.flush()
            self.folder.save_checkpoint(step, tensors, {"fingerprint": self.fingerprint, "rejects": rejects})

    def _restore(self) -> int:
        """The step to go on from; 0 for a fresh start."""
        found = self.folder.load_checkpoint(self.fingerprint)
        if found is None:
            return 0
        tensors, state = found
        self.student.load_state_dict({k.removeprefix("student."): v for k, v in tensors.items() if k.startswith("student.")})
        for number, parameter in enumerate(self._parameters()):
            if (buffer := tensors.get(f"momentum.{number}")) is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
        self.images.rejects.update({r["image_id"]: Reject(**r) for r in state["rejects"]})
        return int(state["step"])

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.optimizer.param_groups:
            yield from group["params"]

    def _all_rejects(self) -> list[Reject]:
        gathered: list[Any] = [dict(self.images.rejects)]
        if self.world_size > 1:
            gathered = [None] * self.world_size
            dist.all_gather_object(gathered, dict(self.images.rejects))
        merged = {k: v for part in gathered for k, v in part.items()}
        return [merged[k] for k in sorted(merged)]

    def _save_model(self) -> None:
        self.student.eval()
        card = config_json(self.job.student, self.student, image_size=self.settings.image_size, crop_pct=self.settings.crop_pct,
                           class_names=self.job.class_names, licence=self.job.licence)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "student.safetensors")
            save_weights(self.student.to(memory_format=torch.contiguous_format), path)
            self.folder.write(path.name, path.read_bytes())
        self.folder.write("config.json", (json.dumps(card, indent=2) + "\n").encode())


def parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Trainable parameters, with weight decay, and without it (norms and biases) where the settings spare them."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    spared = [] if settings.weight_decay_norm else [p for p in trainable if p.ndim <= 1]
    decayed = [p for p in trainable if settings.weight_decay_norm or p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def _place(model: nn.Module, device: str) -> nn.Module:
    return model.to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload, no-any-return]


def _frozen_teacher(spec: ModelSpec, settings: TrainSettings, device: str) -> nn.Module:
    """Dropout and drop path off; batch norm on the batch's own statistics where the settings say so."""
    teacher = _place(build(spec), device).requires_grad_(False).eval()
    if settings.teacher_batch_norm == "train":
        for module in teacher.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
    return teacher


def _freeze_all_but_classifier(model: nn.Module) -> None:
    """Batch norm included: the whole network stays in eval mode."""
    head = classifier_keys(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)
    model.eval()


def _objective(settings: TrainSettings) -> Callable[[Tensor, Tensor], Tensor]:
    if settings.loss == "ce":
        return lambda logits, class_ids: nn.functional.cross_entropy(logits.float(), class_ids)
    divergence = objective(settings.loss)
    return lambda logits, teacher_logits: divergence(logits, teacher_logits, settings.temperature)
