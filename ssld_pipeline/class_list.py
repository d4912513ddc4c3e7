"""The names of the classes that a workspace's tables number, for whoever looks at it; inputs may be out of reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssld_pipeline.errors import UserError
from ssld_pipeline.store import files
from ssld_pipeline.store.fingerprints import digest
from ssld_pipeline.store.workspace import MODEL_STAGES

if TYPE_CHECKING:
    from ssld_pipeline.config import RunConfig
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
        if given in self.names:
            return self.names.index(given)
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
    """The class list that the workspace's labels were made with: the first source whose digest is theirs.

    Cheapest first: the file ``classes``, a model's card, the class folders of the labeled inputs. No image is listed.
    """
    wanted, problem = _recorded_digest(workspace), ""
    for names in _candidates(config, workspace):
        if isinstance(names, UserError):
            problem = f": {names}"
        elif wanted is None or digest(names) == wanted:
            return ClassList(names)
        else:
            problem = ": the class list is another one now"
    return ClassList(note=f"Classes are shown by their numbers, since their names are not known{problem}")


def _recorded_digest(workspace: Workspace) -> str | None:
    """Part of the settings of every label; None before there are any."""
    for name in ("soft_labels", "catalog"):
        table = workspace.tables[name]
        for part in list(table.parts().values())[:1]:
            return str(table.settings_of(part).get("classes"))
    return None


def _candidates(config: RunConfig, workspace: Workspace) -> Iterator[tuple[str, ...] | UserError]:
    if config.classes is not None:
        yield _or_mistake(config)
    for stage in MODEL_STAGES:
        card = files.read_json(files.join(workspace.artifact(stage).uri, "config.json"))
        if card and card.get("label_names"):
            yield tuple(card["label_names"])
    if config.classes is None:
        yield _or_mistake(config)


def _or_mistake(config: RunConfig) -> tuple[str, ...] | UserError:
    from ssld_pipeline.runner.survey import class_names

    try:
        return class_names(config)
    except UserError as error:
        return error
