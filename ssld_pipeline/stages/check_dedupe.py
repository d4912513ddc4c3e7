"""check_dedupe: makes copies of protected images, looks for them, and stops the run where too few are found.

A dedupe that has gone blind (a threshold too strict, an index that lacks images) leaves the copies in the pool, and the
student's accuracy on the protected images is then worth nothing; nobody would see it. Seconds here precede days.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.config.dedupe import CHECK_FIELDS, DECISION_FIELDS
from ssld_pipeline.errors import UserError
from ssld_pipeline.kernels.intervals import chance_of_at_most, wilson
from ssld_pipeline.stages import dedupe, find_copies
from ssld_pipeline.stages.stage import ArtifactStage, Json, Reject, Setup

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.copies.planted.canaries import Canary
    from ssld_pipeline.stages.canaries import Trial

HARD_KINDS = ("watermark", "hard_crop", "perspective", "screenshot", "collage", "screen_photo")
"""Reported, not required: of these the search is known to miss some, where much is hidden or bent."""

_DOUBT = 0.025
_NUM_NAMED = 8


def build(setup: Setup, rows: pa.Table, folder: Path) -> tuple[dict[str, Json], list[Reject]]:
    """Writes ``canaries.parquet`` (rows of ``canaries.judge``) and ``missed/<number>-<kind>.jpg``; returns the figures.

    num_planted, num_found, num_right: over all kinds. recall, low, high: of the kinds that are required, with 95 %
    confidence (Wilson). kinds: per kind kind, is_hard, planted, images (distinct ones copied), found, right, recall,
    low, high. UserError where recall is too low; the files are there to look at even so.
    """
    import pyarrow.parquet as pq

    from ssld_pipeline.stages.canaries import judge

    config = setup.config.dedupe
    trials, rejects = _try_all(setup, rows)
    judged = judge(trials, setup.config)
    verdicts = judged.to_pylist()
    pq.write_table(judged, folder / "canaries.parquet")
    _write_missed(trials, verdicts, folder / "missed")
    figures = measure(verdicts) | {"min_canary_recall": config.min_canary_recall}
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if rejects and not trials:
        raise UserError(
            f"check_dedupe: none of {len(rejects)} protected images can be read to make a copy of it, for example "
            f"{rejects[0].image_id} ({rejects[0].reason} {rejects[0].detail}); see that the input is there"
        )
    _refuse_blindness(figures, verdicts, setup.config)
    return figures, rejects


def _try_all(setup: Setup, rows: pa.Table) -> tuple[list[Trial], list[Reject]]:
    """Canaries of the images that the indexes hold; the others were rejected when it was built. None of an input whose
    copies are only reported: among the labelled images hardly one would be of a protected image."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from ssld_pipeline.copies.index.protected_index import open_indexes
    from ssld_pipeline.copies.planted.canaries import draw
    from ssld_pipeline.copies.threads import on_threads
    from ssld_pipeline.inputs.read import ImageReader
    from ssld_pipeline.inputs.reading_order import in_reading_order
    from ssld_pipeline.stages.canaries import try_out

    config, reader = setup.config.dedupe, ImageReader()
    indexes = open_indexes(setup.artifacts["index_protected"], config.num_probes)
    search = find_copies.search_settings(config)
    of_image: dict[str, list[Canary]] = defaultdict(list)
    reported = setup.config.inputs_of(config.report_only)
    indexed = (image_id for index in indexes for image_id in index.image_ids)
    guarded = (image_id for image_id in indexed if image_id.split("/", 1)[0] not in reported)
    for canary in draw(guarded, config.canaries):
        of_image[canary.protected_id].append(canary)
    drawn = rows.filter(pc.is_in(rows["image_id"], pa.array(of_image, pa.string())))

    def work(record: dict[str, Any]) -> tuple[list[Trial], list[Reject]]:
        return try_out(record, of_image[record["image_id"]], reader, indexes, search)

    done = list(on_threads(work, in_reading_order(drawn), setup.num_threads))
    trials = sorted((t for found, _ in done for t in found), key=lambda t: t.canary.number)
    return trials, [reject for _, rejects in done for reject in rejects]


def _write_missed(trials: Sequence[Trial], verdicts: Sequence[dict[str, Any]], folder: Path) -> None:
    folder.mkdir()
    for trial, verdict in zip(trials, verdicts, strict=True):
        if not verdict["is_found"]:
            (folder / f"{trial.canary.number:05d}-{trial.canary.kind}.jpg").write_bytes(trial.data)


def measure(verdicts: Sequence[dict[str, Any]]) -> dict[str, Json]:
    """The figures of ``build``, from rows of ``canaries.judge``."""
    kinds = [{"kind": kind, "is_hard": kind in HARD_KINDS} | _recall(own) for kind, own in _by_kind(verdicts)]
    required = _recall([v for v in verdicts if v["kind"] not in HARD_KINDS])
    every = _recall(verdicts)
    counts = {f"num_{name}": every[name] for name in ("planted", "found", "right")}
    return counts | {name: required[name] for name in ("recall", "low", "high")} | {"kinds": kinds}


def _by_kind(verdicts: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    from ssld_pipeline.copies.planted.alterations import KINDS

    for kind in KINDS:
        if own := [v for v in verdicts if v["kind"] == kind]:
            yield kind, own


def _recall(verdicts: Sequence[dict[str, Any]]) -> dict[str, Json]:
    planted, found = len(verdicts), sum(v["is_found"] for v in verdicts)
    share = found / planted if planted else None
    # No more trials than there are images: canaries of one image are found, or missed, together.
    images, right = len({v["protected_id"] for v in verdicts}), sum(v["is_right"] for v in verdicts)
    low, high = wilson(share or 0.0, images)
    counts = {"planted": planted, "images": images, "found": found, "right": right}
    return counts | {"recall": share, "low": low, "high": high}


def _refuse_blindness(figures: dict[str, Json], verdicts: Sequence[dict[str, Any]], config: RunConfig) -> None:
    """UserError where no luck explains how few were found, had the search the recall it must have.

    Asked of all required kinds together, and of each kind, since one kind in twenty that is never found hardly shows
    in the whole. A set of few images is thus refused only for what few images can show.
    """
    required = [v for v in verdicts if v["kind"] not in HARD_KINDS]
    by_kind, limit = dict(_by_kind(required)), config.dedupe.min_canary_recall
    blind = [k for k, own in by_kind.items() if _is_beyond_chance(own, limit, _DOUBT / len(by_kind))]
    if blind or _is_beyond_chance(required, limit, _DOUBT):
        weak = blind or [k for k, own in by_kind.items() if _recall(own)["recall"] < limit]
        raise UserError(_too_blind(figures, [_recall(by_kind[k]) | {"kind": k} for k in weak], config))


def _is_beyond_chance(verdicts: Sequence[dict[str, Any]], limit: float, doubt: float) -> bool:
    own = _recall(verdicts)
    num = own["images"]
    return num > 0 and chance_of_at_most(math.ceil(own["found"] * num / own["planted"]), num, limit) < doubt


def _too_blind(figures: dict[str, Json], weak: Sequence[dict[str, Any]], config: RunConfig) -> str:
    worst = sorted(weak, key=lambda k: (k["recall"], k["kind"]))
    names = ", ".join(f"{k['kind']} ({k['found']} of {k['planted']})" for k in worst[:_NUM_NAMED])
    more = f" and {len(worst) - _NUM_NAMED} more kinds" if len(worst) > _NUM_NAMED else ""
    return (
        f"check_dedupe: dedupe misses too many of the copies planted to test it: {names}{more}. Its recall is "
        f"{figures['recall']:.3f} ({figures['low']:.3f} to {figures['high']:.3f} with 95 % confidence); "
        f"dedupe.min_canary_recall asks for {config.dedupe.min_canary_recall}, of each kind and of all. Such copies of "
        f"protected images would stay in the pool, so it has not been read. The missed ones lie as pictures under "
        f"{config.workspace}/artifacts/check_dedupe, each with its evidence in canaries.parquet. Loosen the dedupe "
        f"settings that lose them (min_score, min_inliers, min_votes, pool_keypoints, ...), or lower min_canary_recall"
    )


def settings(config: RunConfig) -> dict[str, Json]:
    """Everything that decides what is found, as the two stages that find have it."""
    own = config.dedupe.model_dump(mode="json", include={*DECISION_FIELDS, *CHECK_FIELDS})
    versions = {"find_copies": find_copies.STAGE.version, "dedupe": dedupe.STAGE.version}
    reported = sorted(config.inputs_of(config.dedupe.report_only))
    return {**find_copies.STAGE.settings(config), **own, "report_only": reported, "versions": versions}


def _is_enabled(config: RunConfig) -> bool:
    return config.dedupe.canaries > 0


STAGE = ArtifactStage(
    name="check_dedupe",
    version=2,
    reads=("catalog",),
    settings=settings,
    build=build,
    artifacts=("index_protected",),
    roles=lambda config: config.dedupe.against,
    enabled=_is_enabled,
)
