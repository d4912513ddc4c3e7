"""The two kinds of failure a person meets: a mistake of theirs (exit code 2) and a bug of ours (exit code 1)."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right; the command line prints the message alone and exits with 2.

    The message says what could not be done, where, what was expected, what was found, and what to do.
    """


class BadImage(Exception):
    """One image cannot be used; whoever meets it writes a row to ``rejects`` and goes on.

    ``reason`` is one of ``ssld_pipeline.contracts.REJECT_REASONS``; ``detail`` is for a person.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
