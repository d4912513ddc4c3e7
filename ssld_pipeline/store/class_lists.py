"""The class lists that a workspace's labels were made with, kept by digest: ``<workspace>/classes/<digest>.txt``.

Line i names class i, so that the class numbers in the tables can be read when the list of the config is another one.
``accepted.json`` names the list that the last run labelled with, or was told to label anew with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from ssld_pipeline.store import files
from ssld_pipeline.store.damage import DamagedFile
from ssld_pipeline.store.fingerprints import digest

_log = logging.getLogger(__name__)
_OTHER_NAMES = "its names are not those whose digest is its name"
_HEAL = "Remove this file: a run with the same class list writes it again"


class ClassLists:
    def __init__(self, workspace: str) -> None:
        self._folder = files.join(workspace, "classes")
        self._names: dict[str, tuple[str, ...] | None] = {}

    def uri(self, list_digest: str) -> str:
        return files.join(self._folder, f"{list_digest}.txt")

    def names(self, list_digest: str) -> tuple[str, ...] | None:
        """None where a list of this digest was never kept, or its file is damaged, as the log then says."""
        if list_digest not in self._names:
            self._names[list_digest] = self._read(list_digest)
        return self._names[list_digest]

    def _read(self, list_digest: str) -> tuple[str, ...] | None:
        try:
            data = files.read_bytes(self.uri(list_digest))
        except FileNotFoundError:
            return None
        names = tuple(data.decode(errors="replace").removesuffix("\n").split("\n"))
        if digest(list(names)) != list_digest:
            _log.warning("%s", DamagedFile(self.uri(list_digest), _OTHER_NAMES, _HEAL))
            return None
        return names

    def accepted(self) -> str | None:
        """Digest of the list that runs continue with; None before the first run, and where the note of it is damaged:
        then a changed list is refused, as if nobody had accepted it."""
        try:
            found = files.read_sealed(self._accepted_uri)
        except DamagedFile as damage:
            _log.warning("%s is damaged (%s) and not used", damage.uri, damage.why)
            return None
        return None if found is None else str(found["classes"])

    def damaged(self) -> Iterator[DamagedFile]:
        """One error for each damaged file."""
        for name in sorted(files.stamps(self._folder)):
            if name.endswith(".txt") and self._read(name.removesuffix(".txt")) is None:
                yield DamagedFile(files.join(self._folder, name), _OTHER_NAMES, _HEAL)
        try:
            files.read_sealed(self._accepted_uri)
        except DamagedFile as damage:
            yield damage

    @property
    def _accepted_uri(self) -> str:
        return files.join(self._folder, "accepted.json")

    def accept(self, names: Sequence[str]) -> None:
        """Keep the list and continue with it. Writes files that are missing or damaged."""
        own = digest(list(names))
        if self._read(own) is None:
            files.write_bytes(self.uri(own), "".join(f"{name}\n" for name in names).encode())
            self._names.pop(own, None)
        if self.accepted() != own:
            files.write_sealed(self._accepted_uri, {"classes": own, "count": len(names)})
