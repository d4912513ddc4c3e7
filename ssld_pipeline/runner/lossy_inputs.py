"""Refuse an input of which too few images can be used, whatever its single parts have lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ssld_pipeline.contracts import Reject, RejectOfMany
from ssld_pipeline.errors import UserError
from ssld_pipeline.rejects import NOT_LOST, NOT_WHOLE, are_too_many, examples, may_be_too_many
from ssld_pipeline.runner.state import State
from ssld_pipeline.sql_text import literals
from ssld_pipeline.store.tables import Part


class _Losses(NamedTuple):
    num_lost: int
    reasons: dict[str, int]
    first: tuple[Reject, ...]


def refuse_lossy_inputs(state: State) -> None:
    """Judge each input by the committed catalog and its rejects. Raises UserError for an input without a usable image,
    and for one that loses more of its images than ``catalog.max_reject_share`` (and more than 10)."""
    share = state.config.catalog.max_reject_share
    rejected = [p for (stage, _), p in state.workspace.tables["rejects"].parts().items() if stage == "catalog"]
    for name, (role, item) in state.config.named_inputs().items():
        num_used = sum(part.num_rows for part in state.catalog.values() if _input_of(part) == name)
        parts = [part for part in rejected if _input_of(part) == name and part.name != name]
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
        if are_too_many(lost.num_lost, 0, share * total):
            raise UserError(
                f"catalog: {lost.num_lost} of {total} images of the input {name!r} ({item.uri}) cannot be used, more "
                f"than catalog.max_reject_share ({share:g}) allows. {why}. "
                "Repair the input, or raise catalog.max_reject_share"
            )


def _input_of(part: Part) -> str:
    return part.name.split("/", 1)[0]


def _unlisted(name: str, state: State, num_used: int) -> dict[Reject, int]:
    """Rejects of the listing, and how many images are lost with each. A folder that cannot be listed stands for as
    many as the other folders have on average; for none where the catalog still has its images."""
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
