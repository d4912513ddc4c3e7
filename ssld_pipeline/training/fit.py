"""The training loop: knows torch.distributed, not Ray, and of what is learnt only strategies and networks.

Everything random is a function of (seed, epoch, place) or (seed, step, norm batch), and a checkpoint holds what else
there is, so a run that is killed and started again ends with the weights of a run that was not.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import UserError
from ssld_pipeline.models.allocator import keep_freed_memory
from ssld_pipeline.training.data import Batch, TrainImages, left_out_of, read_rows
from ssld_pipeline.training.execution import Execution as Execution
from ssld_pipeline.training.folder import Checkpoint, TrialFolder
from ssld_pipeline.training.group import Group
from ssld_pipeline.training.job import OnlineTeacher, StoredTeacher, TrainJob
from ssld_pipeline.training.lease import taken_over
from ssld_pipeline.training.losses import Losses, NotFinite
from ssld_pipeline.training.pace import Due, Pace
from ssld_pipeline.training.schedule import require_a_batch, steps_per_epoch
from ssld_pipeline.training.shares import require_shares
from ssld_pipeline.training.strategies.registry import strategy_named
from ssld_pipeline.training.strategies.strategy import Member
from ssld_pipeline.training.together import require_same_length, require_together
from ssld_pipeline.training.trial import Report as Report
from ssld_pipeline.training.trial import Trial
from ssld_pipeline.training.views_on_device import on_device
from ssld_pipeline.training.waiting import Waiting

_NAMED_IMAGES = 5


def fit(
    job: TrainJob, folder: str, *, fingerprint: str, execution: Execution | None = None, report: Report | None = None
) -> dict[str, Any]:
    """Train ``job`` and leave student.safetensors, config.json and metrics.jsonl in ``folder`` (a path or fsspec URI).

    The case of one job of `fit_together`.
    """
    (metrics,) = fit_together([job], [folder], fingerprints=[fingerprint], execution=execution, report=report)
    return metrics


def fit_together(
    jobs: Sequence[TrainJob],
    folders: Sequence[str],
    *,
    fingerprints: Sequence[str],
    execution: Execution | None = None,
    report: Report | None = None,
) -> list[dict[str, Any]]:
    """Train ``jobs`` in one pass over the same views, with one forward pass of the teacher for all.

    Each ends with the weights that it gets alone, in its own folder. They must agree in data, teacher, strategy,
    batch_size, norm_batch, seed, image size, augmentation and number of steps.

    All processes of an initialised torch.distributed group call it with the same arguments; their number changes
    nothing beyond floating point. Each returns the final metrics of every job: ``steps``, ``num_images``,
    ``images_per_norm``, ``num_processes`` and ``device`` (cpu or cuda) of the last attempt, the last ``loss``,
    ``validation_top1`` and ``validation_top5`` where there is validation, and ``rejects`` (image_id, reason, detail of
    images that could not be used). Goes on from the newest step of which all jobs that are not done have a whole
    checkpoint of their fingerprints; a job that is done is not done again, unless its files are damaged.

    ``report`` is given every row of metrics, with the job's name as ``stage``. UserError where the jobs cannot be
    trained, not together, or not by that number of processes; where a loss is not finite, too many images are lost, or
    another process has taken over.
    """
    execution = execution or Execution()
    torch.set_num_threads(execution.num_threads)
    if execution.device == "cpu":
        keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True
    group, places = Group.current(execution.device), [TrialFolder(folder) for folder in folders]
    require_together(jobs)
    done = [place.finished(own) for place, own in zip(places, fingerprints, strict=True)] if group.rank == 0 else []
    metrics = list(group.broadcast_from_rank0(done))
    left = [number for number, found in enumerate(metrics) if found is None]
    if left:
        own = [(jobs[number], places[number], fingerprints[number]) for number in left]
        for number, found in zip(left, _Pass(own, execution, group, report or (lambda row: None)).run(), strict=True):
            metrics[number] = found
    return [dict(found) for found in metrics if found is not None]


class _Pass:
    def __init__(
        self, own: Sequence[tuple[TrainJob, TrialFolder, str]], execution: Execution, group: Group, report: Report
    ) -> None:
        self.execution, self.group = execution, group
        self.job = job = own[0][0]
        self.settings = job.settings
        rows = read_rows(job.tables, job.roles, job.labelled_only, left_out_of(job), execution.cache)
        for each, *_ in own:
            require_a_batch(each.stage, each.section, each.settings, each.roles, len(rows), each.labelled_only)
            require_shares(each, group.size)
        self.per_epoch = steps_per_epoch(job.settings, len(rows))
        require_same_length([each for each, *_ in own], len(rows))
        self.trials = [Trial(*each, rows, group, report) for each in own]
        self.total = self.trials[0].total
        stored = job.teacher if isinstance(job.teacher, StoredTeacher) else None
        size = _cut_size(job)
        self.images = TrainImages(rows, job.settings, group.rank, group.size, stored, execution.cache, image_size=size)
        members = [Member(trial.job, trial.lr_of) for trial in self.trials]
        self.strategy = strategy_named(job.strategy)(members, group, execution)
        self.losses = Losses(len(own), self.settings.num_micro_batches, group)
        self.recent: deque[tuple[int, NDArray[np.int64]]] = deque()

    def run(self) -> list[dict[str, Any]]:
        for trial in self.trials:
            trial.claim()
        step = self._restore()
        for trial in self.trials:
            trial.begin(step)
        self._train(step)
        self._require_own()
        rejects = self._rejects()
        students = self.strategy.students
        return [trial.finish(own.module, rejects) for trial, own in zip(self.trials, students, strict=True)]

    def _train(self, first: int) -> None:
        self.pace = Pace(self.group, self.execution, first, self.total, self.per_epoch)
        with contextlib.closing(self.images.batches(first, self.total, self.execution.loader_threads)) as batches:
            self.waiting = Waiting(batches)
            share = self.settings.num_micro_batches // self.group.size
            moved = on_device(self.waiting, self.group.device, self.group.rank * share)
            for done, (batch, views) in enumerate(moved, start=first + 1):
                self.losses.add(done, self.strategy.step(done - 1, views))
                self._keep(done, batch)
                if due := self.pace.after(done):
                    self._attend(done, due)
                self._validate(done)
                if due and due.save:
                    self._save(done)

    def _attend(self, done: int, due: Due) -> None:
        """What a group does together now and then."""
        self._require_images()
        if due.log or due.save:
            self._require_finite()
            self._require_own()
        if due.log:
            self._log_losses(done)

    def _keep(self, done: int, batch: Batch) -> None:
        self.recent.append((done, batch.rows))
        for trial in self.trials:
            trial.reject_limit.add(done - 1, batch.lost)

    def _require_images(self) -> None:
        for trial in self.trials:
            if exceeded := trial.reject_limit.exceeded(self.group):
                raise UserError(trial.reject_limit.explain(exceeded, self._rejects()))

    def _require_own(self) -> None:
        """Before anything is written."""
        lost = [number for number, trial in enumerate(self.trials) if not trial.is_own()]
        if lost := self.group.broadcast_from_rank0(lost):
            trial = self.trials[lost[0]]
            raise taken_over(trial.job.stage, trial.folder.uri)

    def _require_finite(self) -> None:
        if found := self.losses.first_not_finite():
            raise UserError(self._explain(found, self._image_ids(found)))
        self.recent.clear()

    def _image_ids(self, found: NotFinite) -> list[str]:
        """Of the norm batch; the process that computed it tells the others."""
        size = self.settings.images_per_norm
        rank, number = divmod(found.norm_batch, self.settings.num_micro_batches // self.group.size)
        own = [rows for step, rows in self.recent if step == found.step and rank == self.group.rank]
        named = {
            str(self.group.rank): [self._id_of(row) for row in rows[number * size : (number + 1) * size]]
            for rows in own
        }
        return [image_id for ids in self.group.merge(named).values() for image_id in ids]

    def _id_of(self, row: int) -> str:
        return str(self.images.rows["image_id"][int(row)].as_py())

    def _explain(self, found: NotFinite, image_ids: Sequence[str]) -> str:
        trial = self.trials[found.job]
        return (
            f"{trial.job.stage}: the loss is not finite at step {found.step} of {self.total} "
            f"(lr {trial.lr_of(found.step - 1):.4g}), in a norm batch of {len(image_ids)} images: "
            f"{', '.join(image_ids[:_NAMED_IMAGES])}{', ...' if len(image_ids) > _NAMED_IMAGES else ''}. Try a smaller "
            f"lr (now {trial.job.settings.lr:g} at its peak) or a longer warm-up, and see that the weights, mean and "
            f"std of the networks belong together"
        )

    def _log_losses(self, done: int) -> None:
        steps, seconds = self.pace.row(done)
        images_per_s = steps * self.settings.batch_size / seconds
        data_wait = min(1.0, self.waiting.take() / seconds)
        for trial, loss in zip(self.trials, self.losses.take_means(), strict=True):
            trial.log_loss(done, loss, images_per_s=images_per_s, data_wait=data_wait)

    def _validate(self, done: int) -> None:
        pairs = [(t, s) for t, s in zip(self.trials, self.strategy.students, strict=True) if t.is_validated(done)]
        with self.pace.pause():
            for trial, student in pairs:
                accuracy = trial.accuracy(student.module, self.execution)
                self._require_own()
                if accuracy:
                    trial.log_accuracy(done, accuracy)

    def _save(self, done: int) -> None:
        self._require_own()  # again, since a validation may have taken long
        with self.pace.pause():
            sums, rejects = self.losses.sums(), [asdict(reject) for reject in self._rejects()]
            if self.group.rank == 0:
                for number, (trial, (loss_sum, steps)) in enumerate(zip(self.trials, sums, strict=True)):
                    state = {"rejects": rejects, "loss_sum": loss_sum, "loss_steps": steps}
                    trial.save(done, self.strategy.tensors(number), **state)

    def _restore(self) -> int:
        """The number of steps that are done: 0 for a fresh start. Rank 0 reads, since what it finds whole another
        process may not, and tells the others."""
        found = self.group.broadcast_from_rank0(self._newest() if self.group.rank == 0 else None)
        if found is None:
            return 0
        for number, (_, tensors, state) in enumerate(found):
            self.strategy.restore(number, tensors)
            self.images.rejects.update({r["image_id"]: Reject(**r) for r in state["rejects"]})
            self.losses.restore(number, state["loss_sum"], state["loss_steps"])
        return int(found[0].state["step"])

    def _newest(self) -> list[Checkpoint] | None:
        """The newest checkpoints of one step, of all jobs."""
        steps = [set(trial.folder.steps(trial.fingerprint)) for trial in self.trials]
        for step in sorted(set.intersection(*steps), reverse=True):
            found = [trial.checkpoint(step) for trial in self.trials]
            whole = [checkpoint for checkpoint in found if checkpoint is not None]
            if len(whole) == len(found):
                return whole
        return None

    def _rejects(self) -> list[Reject]:
        """Of all ranks, by image_id."""
        merged = self.group.merge(self.images.rejects)
        return [merged[image_id] for image_id in sorted(merged)]


def _cut_size(job: TrainJob) -> int:
    """Views are cut at the larger size of student and teacher, and scaled for the other one on the device."""
    teacher = job.teacher.image_size if isinstance(job.teacher, OnlineTeacher) else 0
    return max(job.settings.image_size, teacher)
