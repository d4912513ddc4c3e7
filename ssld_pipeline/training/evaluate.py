"""Accuracy of a network on labelled images, exactly counted, over any number of processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssld_pipeline.contracts import Reject
from ssld_pipeline.models.predict import Predictor
from ssld_pipeline.training.group import ALONE, Group
from ssld_pipeline.training.predictions import on_threads, predict_rows
from ssld_pipeline.training.recipe import Recipe


def evaluate(
    predictor: Predictor, rows: pa.Table, image_size: int, crop_pct: float, num_threads: int, group: Group = ALONE
) -> dict[str, Any]:
    """``num_images`` that could be used, ``top1`` and ``top5`` as shares in [0,1] (0 of no images), ``rejects``.

    ``rows``: image_id, uri, offset, size_bytes and class_id, none null. Images are dealt to the ranks in turn and
    counts summed, so the figures do not depend on how many there are; ``rejects`` are this rank's own. The network runs
    in float32 whatever ``predictor.amp``: logits that are rounded to bfloat16 tie, which counts against it.
    """
    predictor = replace(predictor, amp=False)
    rows = rows.take(np.arange(group.rank, len(rows), group.size))
    labels = rows["class_id"].to_numpy()
    rejects: list[Reject] = []
    counts = np.zeros(3, np.int64)
    recipe = Recipe(image_size, crop_pct)
    for batch in predict_rows(rows, predictor, recipe, on_threads(num_threads), rejects):
        ranks = rank_of_label(batch.probs, labels[batch.numbers])
        counts += (len(ranks), (ranks < 1).sum(), (ranks < 5).sum())
    num_images, top1, top5 = (int(count) for count in group.sum_counts(counts))
    found = {"num_images": num_images, "top1": top1 / max(1, num_images), "top5": top5 / max(1, num_images)}
    return {**found, "rejects": rejects}


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a module of it keeps statistics of batches."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def evaluate_in_norm_batches(
    predictor: Predictor, rows: pa.Table, image_size: int, crop_pct: float, num_threads: int
) -> float | None:
    """Top-1 with batch norm in train mode, in batches of ``predictor.batch_size`` images; None where the images do not
    fill one, or do not fit into the device's memory together. Otherwise as ``evaluate``.

    The images are shuffled, with one seed: batches of one class would have other statistics than those of a training.
    The rest that fills no batch is left out.
    """
    predictor, norm_batch = replace(predictor, amp=False), predictor.batch_size
    count = len(rows) // norm_batch * norm_batch
    if not count:
        return None
    for module in predictor.model.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    rows = rows.take(np.random.default_rng(0).permutation(len(rows))[:count])
    labels = rows["class_id"].to_numpy()
    found = [
        rank_of_label(batch.probs, labels[batch.numbers]) < 1
        for batch in predict_rows(rows, predictor, Recipe(image_size, crop_pct), on_threads(num_threads), [])
    ]
    return float(np.concatenate(found).mean()) if found and predictor.batch_size == norm_batch else None


def rank_of_label(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes are at least as probable as the label, itself not counted: [N] int, 0 is best.

    A tie counts against the network, so one that always says the same of all classes is right about nothing.
    """
    own = probs[np.arange(len(labels)), labels][:, None]
    found: NDArray[np.int64] = (probs >= own).sum(axis=1) - 1
    return found
