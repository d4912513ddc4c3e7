"""Who writes into a trial's folder, where two groups may believe that they do: the one that began last."""

from __future__ import annotations

import uuid

from ssld_pipeline.errors import UserError
from ssld_pipeline.training.folder import TrialFolder

_OWNER = "owner"


class Lease:
    """Taken by rank 0 when a training begins. A partition of the network can leave an earlier group at work, whose
    checkpoints must not mix with those of its successor."""

    def __init__(self, folder: TrialFolder) -> None:
        self._folder, self._token = folder, uuid.uuid4().hex
        folder.write(_OWNER, self._token.encode())

    def is_own(self) -> bool:
        """False as soon as another group has begun, or has even finished."""
        return self._folder.read(_OWNER) == self._token.encode()

    def release(self) -> None:
        self._folder.remove(_OWNER)


def taken_over(stage: str, uri: str) -> UserError:
    return UserError(
        f"{stage}: another process has taken over this training in {uri}, so this one stops and writes nothing more. "
        f"Let the other finish, or end it and run again"
    )
