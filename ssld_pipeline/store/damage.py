"""Errors for files of a workspace that cannot be used: each names the file and says how to replace it."""

from __future__ import annotations

from ssld_pipeline.errors import UserError

REMOVE_AND_RUN = "Remove this file and run again (ssld run CONFIG): what it held is computed again"


MISSING = "it is missing"
OTHER_BYTES = "its bytes are not those that were written"


class DamagedFile(UserError):
    """``uri``: the file. ``why``: what was expected and found. ``heal``: what the user can do."""

    def __init__(self, uri: str, why: str, heal: str = REMOVE_AND_RUN) -> None:
        super().__init__(f"{uri} is damaged: {why}. {heal}")
        self.uri, self.why, self.heal = uri, why, heal

    def __reduce__(self) -> tuple[type[DamagedFile], tuple[str, str, str]]:
        return DamagedFile, (self.uri, self.why, self.heal)


def require_known_format(uri: str, found: int, known: int) -> None:
    """Raises UserError if a newer program wrote the file."""
    if found > known:
        raise UserError(
            f"{uri} was written by a newer version of ssld_pipeline: format {found}, this version reads up to {known}. "
            f"Install the newer version, or use another workspace"
        )


def one_line(error: Exception) -> str:
    """The message without the backtrace that delta-rs adds."""
    return " ".join(str(error).split(" 0: <unknown>")[0].split())
