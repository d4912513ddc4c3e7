"""The names of the classes that a workspace's tables number, for whoever looks at it; inputs may be out of reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.labels import composed
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.fingerprints import digest

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.store.workspace import Workspace


@dataclass(frozen=True)
class ClassList:
    """``names``: line i names class i; none where they are not known, and ``note`` says so."""

    names: tuple[str, ...] = ()
    note: str = ""

    def name(self, class_id: int) -> str:
        """The number itself where there is no name."""
        return self.names[class_id] if 0 <= class_id < len(self.names) else str(class_id)

    def number(self, given: str) -> int:
        """The class that a user calls ``given``: its name or, where no class is called so, its number. UserError."""
        known = list(map(composed, self.names))
        if composed(given) in known:
            return known.index(composed(given))
        if given.isdecimal() and (not self.names or int(given) < len(self.names)):
            return int(given)
        raise UserError(f"--class {given}: {self._why_unknown(given)}")

    def _why_unknown(self, given: str) -> str:
        import difflib

        if not self.names:
            return f"expected a number. {self.note}"
        near = ", ".join(difflib.get_close_matches(given, self.names, n=3) or self.names[:3])
        return f"no such class; there are {len(self.names)}, by name or by number from 0, such as {near}"


def class_list(config: RunConfig, workspace: Workspace) -> ClassList:
    """The class list that the workspace's labels were made with: kept there, or else the config's if that is the one.

    No image is listed.
    """
    from ssld_pipeline.runner.survey import class_names

    wanted = _recorded_digest(workspace)
    if wanted and (kept := ClassLists(workspace.uri).names(wanted)):
        return ClassList(kept)
    try:
        names = class_names(config)
        problem = ": the class list is another one now"
    except UserError as error:
        names, problem = (), f": {error}"
    if names and wanted in (None, digest(names)):
        return ClassList(names)
    return ClassList(note=f"Classes are shown by their numbers, since their names are not known{problem}")


def _recorded_digest(workspace: Workspace) -> str | None:
    """Part of the settings of every label; None before there are any."""
    for name in ("soft_labels", "catalog"):
        table = workspace.tables[name]
        for part in list(table.parts().values())[:1]:
            return str(table.settings_of(part).get("classes"))
    return None
