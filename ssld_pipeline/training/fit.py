"""The training loop: knows torch.distributed, not Ray; alone in a process it is a group of one.

Everything random is a function of (seed, epoch, place) or (seed, step, rank), and a checkpoint holds what else there
is, so a run that is killed and started again ends with the weights of a run that was not.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import UserError
from ssld_pipeline.models.allocator import keep_freed_memory
from ssld_pipeline.models.card import config_json
from ssld_pipeline.models.predict import Predictor
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.training.data import Batch, TrainImages, left_out_of, read_rows
from ssld_pipeline.training.evaluate import evaluate
from ssld_pipeline.training.folder import MetricsLog, TrialFolder
from ssld_pipeline.training.group import Group
from ssld_pipeline.training.job import StoredTeacher, TrainJob
from ssld_pipeline.training.learner import Learner
from ssld_pipeline.training.reject_limit import RejectLimit
from ssld_pipeline.training.schedule import (
    lr_at,
    num_steps,
    num_warmup_steps,
    require_a_batch,
    steps_per_epoch,
    validation_steps,
)

_LOG_ROWS = 200
_ASK_EVERY = 20
_EVALUATION_BATCH = {"cpu": 16, "cuda": 256}
_NEVER = torch.iinfo(torch.int64).max
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Execution:
    """Where and how fast a job runs; nothing here changes a result beyond floating point.

    ``cache``: local folder for the files that the processes of a node share; null: the default of `row_store`.
    """

    num_threads: int = 1
    loader_threads: int = 2
    device: str = "cpu"
    amp: bool = False
    checkpoint_every_s: float = 600
    cache: str | None = None


def fit(
    job: TrainJob, folder: str, *, fingerprint: str, execution: Execution | None = None, report: Report | None = None
) -> dict[str, Any]:
    """Train ``job`` and leave student.safetensors, config.json and metrics.jsonl in ``folder`` (a path or fsspec URI).

    All processes of an initialised torch.distributed group call it with the same arguments; each returns the final
    metrics: ``steps``, ``num_images``, ``images_per_process`` of a batch, the last ``loss``, ``validation_top1`` and
    ``validation_top5`` where there is validation, and ``rejects`` (image_id, reason, detail of images that could not be
    used). Goes on from the newest whole checkpoint of ``fingerprint`` in ``folder``; a run that is done is not done
    again, unless its files are damaged.
    ``report`` is given every row of metrics. UserError where the job cannot be trained, or was begun with another
    number of images per process and batch norm would make that another training.
    """
    execution = execution or Execution()
    torch.set_num_threads(execution.num_threads)
    if execution.device == "cpu":
        keep_freed_memory()
    group, place = Group.current(execution.device), TrialFolder(folder)
    done = group.broadcast_from_rank0(place.finished(fingerprint) if group.rank == 0 else None)
    if done is not None:
        return dict(done)
    return _Trial(job, place, fingerprint, execution, group, report or (lambda row: None)).run()


def fit_together(
    jobs: Sequence[TrainJob],
    folders: Sequence[str],
    *,
    fingerprints: Sequence[str],
    execution: Execution | None = None,
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """``fit`` of several jobs."""
    return [
        fit(job, folder, fingerprint=fingerprint, execution=execution, report=report)
        for job, folder, fingerprint in zip(jobs, folders, fingerprints, strict=True)
    ]


class _Trial:
    def __init__(
        self, job: TrainJob, folder: TrialFolder, fingerprint: str, execution: Execution, group: Group, report: Report
    ) -> None:
        self.job, self.settings, self.execution, self.group = job, job.settings, execution, group
        self.folder, self.fingerprint, self.report = folder, fingerprint, report
        rows = read_rows(job.tables, job.roles, job.labelled_only, left_out_of(job), execution.cache)
        require_a_batch(job.stage, job.section, job.settings, job.roles, len(rows), job.labelled_only)
        self.per_epoch = steps_per_epoch(job.settings, len(rows))
        self.total = num_steps(job.settings, len(rows))
        self.warmup = num_warmup_steps(job.settings, len(rows))
        stored = job.teacher if isinstance(job.teacher, StoredTeacher) else None
        self.images = TrainImages(rows, job.settings, group.rank, group.size, stored, execution.cache)
        self.images_per_process = job.settings.batch_size // group.size
        self.validation = read_rows(job.validation, ("protected",), labelled=True, cache=execution.cache)
        self.learner = Learner(job, group, execution.amp)
        self.reject_limit = RejectLimit(job, rows["role"], self.per_epoch, self.total)
        self.loss_sum, self.loss_steps = torch.zeros((), device=group.device), 0
        self.first_bad = torch.tensor(_NEVER, device=group.device)

    def run(self) -> dict[str, Any]:
        step = self._restore()
        self.log = MetricsLog(self.folder, step)
        if step:
            self._log(step, resumed_at=step)
        self._train(step)
        metrics = {
            "steps": self.total,
            "num_images": len(self.images.rows),
            "images_per_process": self.images_per_process,
            **self._last_figures(),
            "rejects": self._rejects(),
        }
        if self.group.rank == 0:
            self._save_model()
            self.log.flush()
            self.folder.finish(self.fingerprint, metrics)
        return metrics

    def _train(self, first: int) -> None:
        every, validations = max(1, self.total // _LOG_ROWS), validation_steps(self.settings, self.total)
        logged, saved = time.monotonic(), time.monotonic()
        with contextlib.closing(self.images.batches(first, self.total, self.execution.loader_threads)) as batches:
            for done, batch in enumerate(batches, start=first + 1):
                lr = self._lr(done)
                self._count(done, self.learner.step(done - 1, lr, batch))
                self._require_images(done, batch)
                if done % every == 0 or done in (1, self.total):
                    self._log_loss(done, lr, time.monotonic() - logged)
                    logged = time.monotonic()
                if done in validations and len(self.validation):
                    self._validate(done)
                    logged = time.monotonic()
                if done < self.total and self._is_time(done, saved):
                    self._save(done)
                    saved = time.monotonic()

    def _lr(self, done: int) -> float:
        return lr_at(done - 1, self.settings.lr, self.warmup, self.total)

    def _count(self, done: int, loss: Tensor) -> None:
        """Nothing is read back here: a GPU would have to catch up with us at every step."""
        self.loss_sum += loss
        self.loss_steps += 1
        self.first_bad = torch.where(torch.isfinite(loss), self.first_bad, self.first_bad.clamp(max=done))

    def _require_images(self, done: int, batch: Batch) -> None:
        """A group adds up now and then only, the ends of an epoch and of the run included."""
        self.reject_limit.add(done - 1, batch.lost)
        if self.group.size > 1 and done % _ASK_EVERY and done % self.per_epoch and done < self.total:
            return
        if exceeded := self.reject_limit.exceeded(self.group):
            raise UserError(self.reject_limit.explain(exceeded, [Reject(**r) for r in self._rejects()]))

    def _log_loss(self, done: int, lr: float, seconds: float) -> None:
        self._require_finite()
        loss = float(self.group.mean(self.loss_sum)) / self.loss_steps
        own_steps = min(self.loss_steps, done - self.started_at)  # the others are of the process before
        images_per_s = own_steps * self.settings.batch_size / seconds
        self._log(done, epoch=done / self.per_epoch, loss=loss, lr=lr, images_per_s=images_per_s)
        self.loss_sum, self.loss_steps = torch.zeros_like(self.loss_sum), 0

    def _require_finite(self) -> None:
        step = int(self.group.least(self.first_bad))
        if step == _NEVER:
            return
        raise UserError(
            f"{self.job.stage}: the loss is not finite at step {step} of {self.total} (lr {self._lr(step):.4g}). Try a "
            f"smaller lr (now {self.settings.lr:g} at its peak) or a longer warm-up, and see that the weights, "
            f"mean and std of the networks belong together"
        )

    def _validate(self, done: int) -> None:
        student = self.learner.student.eval()
        self.group.equalise_buffers(student)
        batch_size = _EVALUATION_BATCH[self.execution.device]
        predictor = Predictor(self.job.student, student, self.execution.device, amp=False, batch_size=batch_size)
        found = evaluate(
            predictor,
            self.validation,
            self.settings.image_size,
            self.settings.crop_pct,
            self.execution.loader_threads,
            self.group,
        )
        if found["num_images"]:
            self._log(done, epoch=done / self.per_epoch, validation_top1=found["top1"], validation_top5=found["top5"])

    def _log(self, step: int, **row: Any) -> None:
        self.log.add(step=step, **row)
        if self.group.rank == 0:
            self.log.flush()
            self.report({"step": step, **row})

    def _last_figures(self) -> dict[str, Any]:
        names = ("loss", "validation_top1", "validation_top5")
        return {name: row[name] for row in self.log.rows for name in names if name in row}

    def _is_time(self, done: int, saved: float) -> bool:
        """A group asks rank 0 now and then only: the answer has every GPU wait."""
        if self.group.size > 1 and done % _ASK_EVERY:
            return False
        return self.group.broadcast_from_rank0(time.monotonic() - saved > self.execution.checkpoint_every_s)

    def _save(self, done: int) -> None:
        self._require_finite()
        loss_sum, rejects = float(self.group.mean(self.loss_sum)), self._rejects()
        if self.group.rank == 0:
            self.log.flush()
            state = {
                "rejects": rejects,
                "loss_sum": loss_sum,
                "loss_steps": self.loss_steps,
                "images_per_process": self.images_per_process,
            }
            self.folder.save_checkpoint(self.fingerprint, done, self.learner.tensors(), state)

    def _restore(self) -> int:
        """The number of steps that are done: 0 for a fresh start."""
        found = self.folder.newest_checkpoint(self.fingerprint) if self.group.rank == 0 else None
        name = self.group.broadcast_from_rank0(found.name if found else None)
        self.started_at = 0
        if name is None:
            return 0
        _, tensors, state = found or self.folder.checkpoint(name)
        self._require_same_share(state)
        self.learner.restore(tensors)
        self.images.rejects.update({r["image_id"]: Reject(**r) for r in state["rejects"]})
        self.loss_sum, self.loss_steps = self.loss_sum + state["loss_sum"], state["loss_steps"]
        self.started_at = int(state["step"])
        return self.started_at

    def _require_same_share(self, state: dict[str, Any]) -> None:
        before, now = state.get("images_per_process", self.images_per_process), self.images_per_process
        if before == now or not self.learner.depends_on_share():
            return
        batch_size = self.settings.batch_size
        raise UserError(
            f"{self.job.stage}: the checkpoint at step {state['step']} was made with {before} of {batch_size} images "
            f"per process ({batch_size // before} processes), now they would be {now} ({self.group.size} processes). "
            f"Batch norm sees the images of its own process alone, so that would be another training. Go on with "
            f"placement.train_workers: {batch_size // before}, or start anew by removing {self.folder.uri}"
        )

    def _rejects(self) -> list[dict[str, str]]:
        """Of all ranks, by image_id."""
        merged = self.group.merge(self.images.rejects)
        return [asdict(merged[image_id]) for image_id in sorted(merged)]

    def _save_model(self) -> None:
        student, settings = self.learner.student.eval(), self.settings
        card = config_json(
            self.job.student,
            student,
            image_size=settings.image_size,
            crop_pct=settings.crop_pct,
            class_names=self.job.class_names,
            licence=self.job.licence,
        )
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "student.safetensors")
            save_weights(student.to(memory_format=torch.contiguous_format), path)
            self.folder.write(path.name, path.read_bytes())
        self.folder.write("config.json", (json.dumps(card, indent=2) + "\n").encode())
