"""One job of a pass: its folder, its log, its validations, and the model that it leaves."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from ssld_pipeline.contracts import Reject
from ssld_pipeline.models.card import config_json
from ssld_pipeline.models.predict import Predictor
from ssld_pipeline.models.weights import save_weights
from ssld_pipeline.training.data import read_rows
from ssld_pipeline.training.evaluate import evaluate
from ssld_pipeline.training.execution import Execution
from ssld_pipeline.training.folder import Checkpoint, TrialFolder
from ssld_pipeline.training.group import Group
from ssld_pipeline.training.job import TrainJob
from ssld_pipeline.training.lease import Lease
from ssld_pipeline.training.metrics_log import MetricsLog
from ssld_pipeline.training.reject_limit import RejectLimit
from ssld_pipeline.training.schedule import lr_at, num_steps, num_warmup_steps, steps_per_epoch, validation_steps

_log = logging.getLogger(__name__)
_EVALUATION_BATCH = {"cpu": 16, "cuda": 256}
_FORMAT = 2  # of a checkpoint's tensors and state; another one is not gone on from
Report = Callable[[dict[str, Any]], None]


class Trial:
    """``rows``: of the images it trains on. Only rank 0 writes; all processes call every method at the same point."""

    def __init__(
        self, job: TrainJob, folder: TrialFolder, fingerprint: str, rows: pa.Table, group: Group, report: Report
    ) -> None:
        self.job, self.folder, self.fingerprint = job, folder, fingerprint
        self._group, self._report, self._num_images = group, report, len(rows)
        self.total = num_steps(job.settings, len(rows))
        self._warmup = num_warmup_steps(job.settings, len(rows))
        self._per_epoch = steps_per_epoch(job.settings, len(rows))
        self._validation = read_rows(job.validation, ("protected",), labelled=True)
        self._validations = validation_steps(job.settings, self.total) if len(self._validation) else frozenset()
        self.reject_limit = RejectLimit(job, rows["role"], self._per_epoch, self.total)
        self._lease: Lease | None = None
        self._log = MetricsLog(folder, 0)

    def lr_of(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return lr_at(step, self.job.settings.lr, self._warmup, self.total)

    def claim(self) -> None:
        """Take the folder over from whoever writes into it."""
        self._lease = Lease(self.folder) if self._group.rank == 0 else None

    def begin(self, step: int) -> None:
        """Keep the rows of the log up to ``step``, the number of steps done. Rank 0 reads them for all."""
        self._log = MetricsLog(self.folder, step if self._group.rank == 0 else 0)
        self._log.rows = self._group.broadcast_from_rank0(self._log.rows)
        if step:
            self.log(step, resumed_at=step)

    def is_own(self) -> bool:
        """Whether no other group has taken over; known to rank 0 only, elsewhere True."""
        return self._lease is None or self._lease.is_own()

    def log(self, step: int, **row: Any) -> None:
        self._log.add(step=step, **row)
        if self._group.rank == 0:
            self._log.flush()
            self._report({"stage": self.job.stage, "step": step, **row})

    def log_loss(self, step: int, loss: float, **row: Any) -> None:
        self.log(step, epoch=step / self._per_epoch, loss=loss, lr=self.lr_of(step - 1), **row)

    def is_validated(self, step: int) -> bool:
        return step in self._validations

    def accuracy(self, student: nn.Module, execution: Execution) -> dict[str, float]:
        """Of ``student`` on the protected images, as a row of the log; empty where none of them can be used."""
        settings, device = self.job.settings, execution.device
        self._group.equalise(student.eval().buffers())
        predictor = Predictor(self.job.student, student, device, amp=False, batch_size=_EVALUATION_BATCH[device])
        size, threads = settings.image_size, execution.loader_threads
        found = evaluate(predictor, self._validation, size, settings.crop_pct, threads, self._group)
        names = ("top1", "top5") if found["num_images"] else ()
        return {f"validation_{name}": found[name] for name in names}

    def log_accuracy(self, step: int, accuracy: dict[str, float]) -> None:
        self.log(step, epoch=step / self._per_epoch, **accuracy)

    def checkpoint(self, step: int) -> Checkpoint | None:
        """That of ``step``, where it is whole and of this program."""
        found = self.folder.whole_checkpoint(self.fingerprint, step)
        if found is None or found.state.get("format") == _FORMAT:
            return found
        _log.warning("checkpoint %s/%s is of another version and not used", self.folder.uri, found.name)
        return None

    def save(self, step: int, tensors: dict[str, Tensor], **state: Any) -> None:
        self.folder.save_checkpoint(self.fingerprint, step, tensors, {"format": _FORMAT, **state})

    def finish(self, student: nn.Module, rejects: Sequence[Reject]) -> dict[str, Any]:
        """Leave the model in the folder, and say that it is done."""
        metrics = {
            "steps": self.total,
            "num_images": self._num_images,
            "images_per_norm": self.job.settings.images_per_norm,
            "num_processes": self._group.size,
            "device": self._group.device,
            **self._last_figures(),
            "rejects": [vars(reject) for reject in rejects],
        }
        if self._lease is not None:
            self._save_model(student)
            self._log.flush()
            self.folder.finish(self.fingerprint, metrics)
            self._lease.release()
        return metrics

    def _last_figures(self) -> dict[str, Any]:
        names = ("loss", "validation_top1", "validation_top5")
        return {name: row[name] for row in self._log.rows for name in names if name in row}

    def _save_model(self, student: nn.Module) -> None:
        settings = self.job.settings
        card = config_json(
            self.job.student,
            student.eval(),
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
