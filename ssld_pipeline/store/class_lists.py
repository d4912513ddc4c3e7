"""The class lists that a workspace's labels were made with, kept by digest: ``<workspace>/classes/<digest>.txt``.

Line i names class i, so that the class numbers in the tables can be read when the list of the config is another one.
``accepted.json`` names the list that the last run labelled with, or was told to label anew with.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssld_pipeline.store import files
from ssld_pipeline.store.fingerprints import digest


class ClassLists:
    def __init__(self, workspace: str) -> None:
        self._folder = files.join(workspace, "classes")
        self._names: dict[str, tuple[str, ...] | None] = {}

    def uri(self, list_digest: str) -> str:
        return files.join(self._folder, f"{list_digest}.txt")

    def names(self, list_digest: str) -> tuple[str, ...] | None:
        """None where a list of this digest was never kept."""
        if list_digest not in self._names:
            try:
                text = files.read_bytes(self.uri(list_digest)).decode()
                self._names[list_digest] = tuple(text.removesuffix("\n").split("\n"))
            except FileNotFoundError:
                self._names[list_digest] = None
        return self._names[list_digest]

    def accepted(self) -> str | None:
        """Digest of the list that runs go on with; None before the first run."""
        found = files.read_json(files.join(self._folder, "accepted.json"))
        return None if found is None else str(found["classes"])

    def accept(self, names: Sequence[str]) -> None:
        """Keep the list and go on with it."""
        own = digest(list(names))
        if self.accepted() == own:
            return
        files.write_bytes(self.uri(own), "".join(f"{name}\n" for name in names).encode())
        files.write_json(files.join(self._folder, "accepted.json"), {"classes": own, "count": len(names)})
