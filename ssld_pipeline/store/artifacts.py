"""An artifact: a folder of files that a stage made (a model, an index), with the record of how, written last.

    <root>/<stage>/record.json              names the current version
    <root>/<stage>/<fingerprint>/...        its files, never changed once the record names them

A model's files are also copied to ``<root>/<stage>/`` itself, where its users look for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssld_pipeline.store import files
from ssld_pipeline.store.checked_folder import damaged_files
from ssld_pipeline.store.damage import DamagedFile, require_known_format
from ssld_pipeline.store.fingerprints import Fingerprint, digest, digest_bytes, digest_file

FORMAT = 1
"""Of ``record.json``: raised when an older program would misread it."""


@dataclass(frozen=True)
class Record:
    """``files``: digests of the files' bytes, by name; ``content``: the digest of these. ``figures``: what the stage
    has to say about its result. ``sizes``, in bytes, and ``published``, the names of the files that are copied up, are
    empty in records of older programs."""

    fingerprint: Fingerprint
    content: str
    settings: dict[str, Any]
    figures: dict[str, Any]
    files: dict[str, str]
    seconds: float
    committed_at: float
    sizes: dict[str, int] = field(default_factory=dict)
    published: tuple[str, ...] = ()


class ArtifactStore:
    def __init__(self, root: str, stage: str) -> None:
        self.uri = files.join(root, stage)

    def record(self) -> Record | None:
        """None where nothing was committed. Raises DamagedFile if the record was changed or cut, and UserError if a
        newer program wrote it."""
        value = files.read_sealed(self._record_uri)
        if value is None:
            return None
        try:
            require_known_format(self._record_uri, value.pop("format", 1), FORMAT)
            fingerprint, published = Fingerprint(**value.pop("fingerprint")), tuple(value.pop("published", ()))
            record = Record(fingerprint=fingerprint, published=published, **value)
        except (TypeError, KeyError) as error:
            raise DamagedFile(self._record_uri, f"it is no record ({error})") from None
        if record.content != digest(record.files):
            raise DamagedFile(self._record_uri, "its digests do not belong together")
        return record

    def usable_record(self) -> Record | None:
        """The same, None where the record is damaged: then the stage that writes it runs first."""
        try:
            return self.record()
        except DamagedFile:
            return None

    @property
    def _record_uri(self) -> str:
        return files.join(self.uri, "record.json")

    def lost(self, record: Record) -> str:
        """What makes the artifact unusable as a listing tells: a file is missing, or has another size. Empty if none
        does."""
        present = files.stamps(self.uri)
        for path in self._paths(record):
            size = record.sizes.get(path.split("/", 1)[-1])  # without the folder of the version
            if path not in present:
                return f"{files.join(self.uri, path)} is missing"
            if size is not None and present[path].size_bytes != size:
                return f"{files.join(self.uri, path)} has {present[path].size_bytes:,} of {size:,} bytes"
        return ""

    def damaged(self, record: Record) -> Iterator[DamagedFile]:
        """One error for each damaged file. Reads every byte, whatever was read before."""
        for path, written in self._paths(record).items():
            uri = files.join(self.uri, path)
            if files.stamp(uri) is None:
                yield self._error(uri, "it is missing")
            elif digest_file(uri) != written:
                yield self._error(uri, "its bytes are not those that were written")

    def read(self, record: Record, name: str) -> bytes:
        """One file of the artifact. Raises DamagedFile if it is not what was written."""
        uri = files.join(self.folder(record.fingerprint), name)
        try:
            data = files.read_bytes(uri)
        except FileNotFoundError:
            raise self._error(uri, "it is missing") from None
        if digest_bytes(data) != record.files[name]:
            raise self._error(uri, "its bytes are not those that were written")
        return data

    def _paths(self, record: Record) -> dict[str, str]:
        """Digests of all the record's files, published copies included, by path relative to ``uri``."""
        own = {f"{record.fingerprint}/{name}": written for name, written in record.files.items()}
        return own | {name: record.files[name] for name in record.published}

    def _error(self, uri: str, why: str) -> DamagedFile:
        heal = "Remove this file and run again (ssld run CONFIG): the stage that made it runs again"
        return DamagedFile(uri, why, heal)

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
        sizes = {name: stamp.size_bytes for name in names if (stamp := files.stamp(files.join(folder, name)))}
        record = Record(
            fingerprint,
            digest(digests),
            dict(settings),
            dict(figures),
            digests,
            seconds,
            time.time(),
            sizes,
            tuple(published),
        )
        pointer = self._record_uri
        if published:  # between here and the last line no record claims the copies, and the next run publishes again
            files.remove(pointer)
        for name in published:
            files.copy(files.join(folder, name), files.join(self.uri, name))
        files.write_sealed(pointer, {**vars(record), "fingerprint": vars(fingerprint), "format": FORMAT})
        return record

    def fetch(self, record: Record, cache: Path) -> Path:
        """A local folder with the record's files: the artifact itself, or a copy of a remote one in ``cache``.

        Raises DamagedFile if one is not what was written; a damaged copy is fetched again first. Each file is read once
        per node: see ``checked_folder``.
        """
        folder = self.folder(record.fingerprint)
        is_local = files.is_local(folder)
        local = files.local_path(folder) if is_local else cache / record.content
        if not is_local:
            for name in record.files:
                if not (local / name).exists():
                    self._copy(record, name, local)
        found = damaged_files(local, record.files)
        if found and not is_local:
            for name in found:
                self._copy(record, name, local)
            found = damaged_files(local, record.files)
        for name, why in found.items():
            raise self._error(files.join(folder, name), why)
        return local

    def _copy(self, record: Record, name: str, local: Path) -> None:
        uri = files.join(self.folder(record.fingerprint), name)
        try:
            files.copy(uri, str(local / name))
        except FileNotFoundError:
            raise self._error(uri, "it is missing") from None

    def remove_others(self, keep: Fingerprint) -> None:
        """Drop versions that are not current."""
        names = {f.split("/")[0] for f in files.list_files(self.uri) if "/" in f}
        for name in names - {str(keep)}:
            files.remove(files.join(self.uri, name))
