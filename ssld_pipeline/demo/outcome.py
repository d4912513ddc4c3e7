"""What a run on a world with a known truth achieved: copies, labels, mined images, accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssld_pipeline.queries.sql import run_sql
from ssld_pipeline.store.workspace import Workspace

_TITLES = {
    "baseline": "student, labelled images only",
    "train": "student, SSLD",
    "finetune": "student, SSLD + finetune",
    "second": "second student, taught by the first",
}
"""Of the demo's trainings; others are called by their name."""


def outcome(
    truth: Mapping[str, Any], workspace: Workspace, trainings: Sequence[str] = tuple(_TITLES)
) -> list[dict[str, str]]:
    """Rows of ``figure`` and ``value``; accuracies in the order of ``trainings``, those of other models after them, the
    teacher's last.

    ``truth``: ``copies``, by image_id the ``source`` and ``kind`` of each planted copy, and ``pool``, the class name of
    each pool image where it is known. A removed image that was not planted counts as false.
    """
    removed = _removed(workspace)
    return [
        *_copies(truth["copies"], removed),
        *_labels(workspace),
        *_mined(truth, workspace),
        *_accuracies(workspace, trainings),
    ]


def _removed(workspace: Workspace) -> dict[str, set[str]]:
    query = """SELECT image_id, list(protected_id) AS ids FROM duplicates WHERE is_duplicate AND role = 'pool'
               GROUP BY 1"""
    rows = run_sql(workspace, query).to_pylist()
    return {row["image_id"]: set(row["ids"]) for row in rows}


def _copies(planted: Mapping[str, Mapping[str, str]], removed: Mapping[str, set[str]]) -> list[dict[str, str]]:
    found = [image for image in planted if image in removed]
    right = sum(planted[image]["source"] in removed[image] for image in found)
    missed: dict[str, int] = {}
    for image in planted.keys() - removed.keys():
        missed[planted[image]["kind"]] = missed.get(planted[image]["kind"], 0) + 1
    return [
        _row("copies planted in the pool", f"{len(planted)}"),
        _row("copies found", f"{len(found)}" + (f" (missed: {_counts(missed)})" if missed else "")),
        _row("  of which with the right protected image", f"{right}"),
        _row("images removed that are no planted copy", f"{len(removed.keys() - planted.keys())}"),
    ]


def _labels(workspace: Workspace) -> list[dict[str, str]]:
    rows = run_sql(
        workspace,
        """SELECT (SELECT count(*) FROM catalog WHERE role = 'pool') AS pool,
                                    (SELECT count(*) FROM soft_labels WHERE view = 0) AS labelled,
                                    (SELECT count(*) FROM rejects) AS rejects""",
    ).to_pylist()
    return [
        _row("pool images", f"{rows[0]['pool']:,}"),
        _row("pool images labelled", f"{rows[0]['labelled']:,}"),
        _row("images rejected", f"{rows[0]['rejects']:,}"),
    ]


def _mined(truth: Mapping[str, Any], workspace: Workspace) -> list[dict[str, str]]:
    mined = run_sql(workspace, "SELECT image_id, class_id FROM manifest WHERE role = 'pool'").to_pylist()
    counts = dict.fromkeys(truth["classes"], 0)
    known = right = 0
    for row in mined:
        name = truth["classes"][row["class_id"]]
        counts[name] += 1
        if row["image_id"] in truth["pool"]:
            known, right = known + 1, right + (truth["pool"][row["image_id"]] == name)
    share = f"{right / known:.3f} of {known:,} whose class is known" if known else "unknown"
    return [_row("mined images", f"{len(mined):,} ({_counts(counts)})"), _row("mined images of the right class", share)]


def _accuracies(workspace: Workspace, trainings: Sequence[str]) -> list[dict[str, str]]:
    query = "SELECT model, input, top1, num_images FROM evaluations ORDER BY model, input, image_size"
    rows = run_sql(workspace, query).to_pylist()
    others = [row["model"] for row in rows if row["model"] != "teacher"]
    return [
        _row(f"top-1 on {row['input']}: {_TITLES.get(model, model)}", f"{row['top1']:.4f} ({row['num_images']} images)")
        for model in dict.fromkeys([*trainings, *others, "teacher"])
        for row in rows
        if row["model"] == model
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _row(figure: str, value: str) -> dict[str, str]:
    return {"figure": figure, "value": value}
