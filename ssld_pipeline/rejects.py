"""How many images may be lost before what is made of the others is refused."""

from __future__ import annotations

from collections.abc import Sequence

from ssld_pipeline.contracts import Reject
from ssld_pipeline.errors import UserError

FEW = 10  # a share means nothing among thirty images
_UNREAD = ("unreadable", "truncated_archive")
NOT_WHOLE = (*_UNREAD, "unsupported_member", "nested_archive")
"""Reasons that leave images of an input unread: they guard nothing, and their number is unknown."""

NOT_LOST = ("duplicate_name", "empty_class")
"""Reasons of a listing for which no image is lost."""
_EXAMPLES = 3


def are_too_many(num_lost: int, num_unread: int, allowed: float) -> bool:
    """``allowed``: the share that may be lost, in images; up to ten may be where it is less.

    What cannot be read (``num_unread``, of those lost) is a matter of disks, and passes: it is held to the share
    however few images there are.
    """
    return num_lost > max(FEW, allowed) or num_unread > allowed


def may_be_too_many(num_rejects: int, num_images: int, share: float) -> bool:
    """Whether the share may be exceeded, if each reject is a lost image besides ``num_images`` that are not lost."""
    return are_too_many(num_rejects, 0, share * (num_images + num_rejects))


def worst(rejects: Sequence[Reject]) -> tuple[Reject, ...]:
    """The few that explain most: what is lost, whole archives first."""
    lost = [reject for reject in rejects if reject.num_lost]
    return tuple(sorted(lost, key=lambda reject: reject.reason not in NOT_WHOLE)[:_EXAMPLES])


def examples(rejects: Sequence[Reject]) -> str:
    return ", ".join(f"{r.image_id} ({r.reason} {r.detail})" for r in rejects[:_EXAMPLES])


def refuse_gaps(
    stage: str, images: str, rejects: Sequence[Reject], num_images: int, allowed: float, consequence: str
) -> None:
    """UserError where one of the ``num_images`` images that guard or measure cannot be read, where too many of them
    cannot be used, or none can. ``images``: what they are."""
    unread = [r for r in rejects if r.reason in _UNREAD]
    if unread or are_too_many(len(rejects), 0, allowed) or len(rejects) == num_images:
        bad = unread or rejects
        raise UserError(
            f"{stage}: {len(bad)} of {num_images} {images} cannot be used, so {consequence}: {examples(bad)}. "
            "See that the input is there on the workers, or take these images out of it"
        )
