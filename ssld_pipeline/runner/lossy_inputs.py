"""Refuse an input of which too few images can be used, and a protected one that is not whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ssld_pipeline.contracts import Reject, RejectOfMany
from ssld_pipeline.errors import UserError
from ssld_pipeline.rejects import NOT_LOST, NOT_WHOLE, are_too_many, examples, may_be_too_many
from ssld_pipeline.runner.state import State
from ssld_pipeline.sql_text import literals
from ssld_pipeline.stages.stage import PartStage
from ssld_pipeline.store.part import Part

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig


class _Losses(NamedTuple):
    num_lost: int
    reasons: dict[str, int]
    first: tuple[Reject, ...]


def refuse_lossy_inputs(stage: PartStage, state: State) -> None:
    """Raises UserError for an input of which the stage, which is up to date, can use no image or too few."""
    if stage.per == "shard":
        _judge_catalog(state)
    elif stage.per == "part" and stage.section:
        _judge_images(stage, state)


def _judge_images(stage: PartStage, state: State) -> None:
    """An input without an image that the stage could use may be small: its parts lose ten or fewer."""
    rejected = [p for (name, _), p in state.workspace.tables["rejects"].parts().items() if name == stage.name]
    for name in state.survey.inputs_of(stage.roles(state.config)):
        parts = [part for part in rejected if _input_of(part) == name]
        num_images = sum(part.num_rows for part in state.catalog.values() if _input_of(part) == name)
        if num_images and sum(part.num_rows for part in parts) >= num_images:
            lost = _losses(state, parts, {})
            raise UserError(
                f"{stage.name}: none of the {num_images} images of the input {name!r} "
                f"({state.config.named_inputs()[name][1].uri}) can be used. Reasons: {lost.reasons}. "
                f"The first: {examples(lost.first)}. Correct the input"
            )


def _judge_catalog(state: State) -> None:
    """By the committed catalog and its rejects: an input needs a usable image, and may lose ten images or a share of
    ``catalog.max_reject_share``."""
    share = state.config.catalog.max_reject_share
    rejected = [p for (stage, _), p in state.workspace.tables["rejects"].parts().items() if stage == "catalog"]
    for name, (role, item) in state.config.named_inputs().items():
        num_used = sum(part.num_rows for part in state.catalog.values() if _input_of(part) == name)
        parts = [part for part in rejected if _input_of(part) == name and part.name != name]
        if parts and name in guards(state.config):
            _require_whole(state, parts)
        unlisted = _unlisted(name, state, num_used)
        num_rejects = sum(part.num_rows for part in parts) + sum(unlisted.values())
        if num_used and not may_be_too_many(num_rejects, num_used, share):
            continue  # without reading the rejects
        lost = _losses(state, parts, unlisted)
        total = num_used + lost.num_lost
        why = f"Reasons: {lost.reasons}. The first: {examples(lost.first)}" if lost.first else "It holds no image"
        if not num_used:
            raise UserError(
                f"inputs.{role}: no image of {item.uri} (format: {item.format}) can be used. {why}. "
                "Correct the input, its format or the classes"
            )
        num_lost = lost.num_lost - lost.reasons.get("unknown_class", 0)  # held to catalog.max_unknown_labels
        if are_too_many(num_lost, 0, share * total):
            raise UserError(
                f"catalog: {num_lost} of {total} images of the input {name!r} ({item.uri}) cannot be used, more "
                f"than catalog.max_reject_share ({share:g}) allows. {why}. "
                "Repair the input, or raise catalog.max_reject_share"
            )


def guards(config: RunConfig) -> tuple[str, ...]:
    """Names of the inputs that the others are compared with, or networks are measured on."""
    return config.inputs_of(("protected", *config.dedupe.against))


def _require_whole(state: State, parts: Sequence[Part]) -> None:
    """Also of parts that were committed before ``dedupe.against`` named their input."""
    query = f"SELECT image_id, reason, detail FROM rejects WHERE reason IN ({literals(NOT_WHOLE)}) ORDER BY 1 LIMIT 3"
    with state.workspace.connect("rejects", only=parts) as connection:
        found = [Reject(*row) for row in connection.execute(query).fetchall()]
    if found:
        raise UserError(explain_gaps(found))


def explain_gaps(found: Sequence[Reject]) -> str:
    return (
        f"catalog: protected images cannot be read, so copies of them would stay in the pool: {examples(found)}. "
        "Repair the input"
    )


def _input_of(part: Part) -> str:
    return part.name.split("/", 1)[0]


def _unlisted(name: str, state: State, num_used: int) -> dict[Reject, int]:
    """Rejects of the listing, and how many images are lost with each. A folder that cannot be listed counts as many as
    the other folders have on average, and none where the catalog still has its images."""
    found: dict[Reject, int] = {}
    for reject in state.survey.listing_rejects.get(name, ()):
        if reject.reason in NOT_LOST:
            continue
        if not isinstance(reject, RejectOfMany):
            found[reject] = 1
        elif not any(part.startswith((f"{reject.image_id}/", f"{reject.image_id}#")) for part in state.catalog):
            found[reject] = max(1, num_used // max(1, _num_folders(name, state)))
    return found


def _num_folders(name: str, state: State) -> int:
    listings = (shard.listing["relative"] for shard in state.survey.shards if shard.input_name == name)
    return len({path.rpartition("/")[0] for listing in listings for path in listing.to_pylist()})


def _losses(state: State, parts: Sequence[Part], unlisted: dict[Reject, int]) -> _Losses:
    """The rejects of whole archives and folders come first."""
    reasons: dict[str, int] = {}
    for reject, number in unlisted.items():
        reasons[reject.reason] = reasons.get(reject.reason, 0) + number
    first = sorted(unlisted, key=lambda reject: not isinstance(reject, RejectOfMany))[:1]
    if parts:
        query = f"""SELECT reason, count(*), arg_min(image_id, image_id), arg_min(detail, image_id) FROM rejects
                    WHERE reason <> 'companion' GROUP BY 1 ORDER BY reason NOT IN ({literals(NOT_WHOLE)}), 2 DESC, 1"""
        with state.workspace.connect("rejects", only=parts) as connection:
            rows = connection.execute(query).fetchall()
        for reason, number, *_ in rows:
            reasons[reason] = reasons.get(reason, 0) + number
        first += [Reject(image_id, reason, detail) for reason, _, image_id, detail in rows[:1] if not first]
    return _Losses(sum(reasons.values()), reasons, tuple(first))
