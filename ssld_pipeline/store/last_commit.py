"""What the newest commit of a table left, kept outside its folder: ``<workspace>/.last_commits/<table>.json``.

Delta Lake cannot tell a log that lost its newest entries, or whose entries were changed, from an older one. With this
note it is noticed. It is written after each commit, so that a log may be ahead of it by what a killed run committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ssld_pipeline.store import files
from ssld_pipeline.store.damage import require_known_format
from ssld_pipeline.store.fingerprints import digest

if TYPE_CHECKING:
    from ssld_pipeline.store.part import Part

FORMAT = 1
"""Of the tables and of this note: raised when an older program would misread them."""
_LOGS_KEPT = 100  # delta-rs writes a checkpoint every 100 commits; what is older no longer decides what is live
_HEAL = "Remove this file: the next run writes it again, and trusts the table's log as it is"


@dataclass(frozen=True)
class LastCommit:
    """``parts``: digest of the live parts. ``logs``: digests of the newest files of the log, by name. ``sample``: names
    of a few live parts: where they are there and the log is not, the log was lost, and the table not removed."""

    version: int
    parts: str
    logs: dict[str, str]
    sample: list[str]

    @staticmethod
    def uri(workspace: str, table: str) -> str:
        return files.join(workspace, ".last_commits", f"{table}.json")

    @classmethod
    def read(cls, workspace: str, table: str) -> LastCommit | None:
        """None where none was noted, as by older programs. Raises DamagedFile, or UserError for a newer format."""
        uri = cls.uri(workspace, table)
        value = files.read_sealed(uri, _HEAL)
        if value is None:
            return None
        require_known_format(uri, value.get("format", 1), FORMAT)
        return cls(value["version"], value["parts"], value["logs"], value["sample"])

    def write(self, workspace: str, table: str) -> None:
        logs = dict(sorted(self.logs.items())[-_LOGS_KEPT:])
        files.write_sealed(self.uri(workspace, table), {**asdict(self), "logs": logs, "format": FORMAT})


def digest_parts(parts: Iterable[Part]) -> str:
    """Of all that the log says of each part. 20,000 parts take 0.1 s."""
    rows: list[list[Any]] = [[p.file, p.num_rows, p.size_bytes, *p.unit] for p in parts]
    return digest(sorted(rows))
