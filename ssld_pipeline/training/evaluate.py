"""Accuracy of a network on labelled images, exactly counted, over any number of processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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


def rank_of_label(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes are at least as probable as the label, itself not counted: [N] int, 0 is best.

    A tie counts against the network, so one that always says the same of all classes is right about nothing.
    """
    own = probs[np.arange(len(labels)), labels][:, None]
    found: NDArray[np.int64] = (probs >= own).sum(axis=1) - 1
    return found
