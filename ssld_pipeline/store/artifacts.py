"""An artifact: a folder of files that a stage made (a model, an index), with the record of how, written last.

    <root>/<stage>/record.json              names the current version
    <root>/<stage>/<fingerprint>/...        its files, never changed once the record names them

A model's files are also copied to ``<root>/<stage>/`` itself, where its users look for them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssld_pipeline.store import files
from ssld_pipeline.store.fingerprints import Fingerprint, digest, digest_file


@dataclass(frozen=True)
class Record:
    """``content``: digest of the files' bytes. ``figures``: what the stage has to say about its result."""

    fingerprint: Fingerprint
    content: str
    settings: dict[str, Any]
    figures: dict[str, Any]
    files: dict[str, str]
    seconds: float
    committed_at: float


class ArtifactStore:
    def __init__(self, root: str, stage: str) -> None:
        self.uri = files.join(root, stage)

    def record(self) -> Record | None:
        """None where nothing was committed."""
        value = files.read_json(files.join(self.uri, "record.json"))
        return None if value is None else Record(**{**value, "fingerprint": Fingerprint(**value["fingerprint"])})

    def folder(self, fingerprint: Fingerprint) -> str:
        """Where the files of this computation are, or are to be, written."""
        return files.join(self.uri, str(fingerprint))

    def commit(
        self,
        fingerprint: Fingerprint,
        settings: Mapping[str, Any],
        figures: Mapping[str, Any],
        *,
        names: tuple[str, ...],
        published: tuple[str, ...] = (),
        seconds: float = 0.0,
    ) -> Record:
        """Make the files called ``names`` in ``folder(fingerprint)`` the current version; copy ``published`` up."""
        folder = self.folder(fingerprint)
        digests = {name: digest_file(files.join(folder, name)) for name in names}
        record = Record(fingerprint, digest(digests), dict(settings), dict(figures), digests, seconds, time.time())
        pointer = files.join(self.uri, "record.json")
        if published:  # between here and the last line no record claims the copies, and the next run publishes again
            files.remove(pointer)
        for name in published:
            files.copy(files.join(folder, name), files.join(self.uri, name))
        value = {**vars(record), "fingerprint": vars(fingerprint)}
        files.write_json(pointer, value)
        return record

    def fetch(self, record: Record, cache: Path) -> Path:
        """A local folder with the record's files: the artifact itself, or a copy of a remote one in ``cache``."""
        folder = self.folder(record.fingerprint)
        if files.is_local(folder):
            return files.local_path(folder)
        local = cache / record.content
        for name in record.files:
            if not (local / name).exists():
                files.copy(files.join(folder, name), str(local / name))
        return local

    def remove_others(self, keep: Fingerprint) -> None:
        """Drop versions that are not current."""
        names = {f.split("/")[0] for f in files.list_files(self.uri) if "/" in f}
        for name in names - {str(keep)}:
            files.remove(files.join(self.uri, name))
