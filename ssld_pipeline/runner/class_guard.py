"""No label is read as another class, and none is made anew, because a line of the class list moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssld_pipeline.config.run import RunConfig
from ssld_pipeline.errors import UserError
from ssld_pipeline.runner.survey import class_names
from ssld_pipeline.store import files
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.fingerprints import digest
from ssld_pipeline.store.part import Part
from ssld_pipeline.store.workspace import Workspace


def accept_classes(workspace: Workspace, classes: Sequence[str], new_classes: bool = False) -> None:
    """Keep the class list that a run is about to work with.

    UserError where soft_labels has labels of another list, unless ``new_classes`` says that these go, now or when the
    run was started that was interrupted.
    """
    lists = ClassLists(workspace.uri)
    others = _labels_of_other_lists(workspace, classes)
    if others and not new_classes and lists.accepted() != digest(list(classes)):
        raise UserError(_refusal(workspace, others, classes))
    lists.accept(classes)


def require_same_classes(config: RunConfig, workspace: Workspace) -> None:
    """UserError where soft_labels has labels of another class list than the config's.

    Nothing is asked where there are no labels, or where the list follows from folders that cannot be seen from here.
    """
    if not workspace.tables["soft_labels"].parts():
        return
    try:
        classes = class_names(config)
    except UserError:
        if config.classes is not None:
            raise
        return
    if others := _labels_of_other_lists(workspace, classes):
        raise UserError(_refusal(workspace, others, classes))


def explain_classes(lists: ClassLists, was: str, classes: Sequence[str]) -> str:
    """What differs between the list of digest ``was`` and ``classes``, in one line."""
    old = lists.names(was)
    count = f"{len(old):,} classes" if old else "an unknown number of classes"
    text = f"{count} (digest {was}) -> {len(classes):,} classes (digest {digest(list(classes))})"
    if old is None:
        return text
    pairs = enumerate(zip([*old, None], [*classes, None], strict=False))
    number, (before, now) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
    return f"{text}; the first that differs is class {number}: {_shown(before)} -> {_shown(now)}"


def _shown(name: str | None) -> str:
    return "none" if name is None else repr(name)


def _labels_of_other_lists(workspace: Workspace, classes: Sequence[str]) -> dict[str, list[Part]]:
    """By the digest of its class list: parts of soft_labels that were made with another one than ``classes``."""
    table = workspace.tables["soft_labels"]
    by_settings: dict[str, list[Part]] = {}
    live = table.parts().values()
    lost = table.unreadable(live)  # these are labelled again
    for part in live:
        if part.file not in lost:
            by_settings.setdefault(part.fingerprint.settings, []).append(part)
    found: dict[str, list[Part]] = {}
    for parts in by_settings.values():
        found.setdefault(str(table.settings_of(parts[0]).get("classes")), []).extend(parts)
    found.pop(digest(list(classes)), None)
    return found


def _refusal(workspace: Workspace, others: Mapping[str, list[Part]], classes: Sequence[str]) -> str:
    was = max(others, key=lambda list_digest: sum(part.num_rows for part in others[list_digest]))
    num_rows = sum(part.num_rows for parts in others.values() for part in parts)
    lists = ClassLists(workspace.uri)
    kept = lists.uri(was)
    back = f"the old list is kept: set classes: {kept}" if files.exists(kept) else "put the old list back"
    return (
        f"the class list is another one than that of {num_rows:,} labels in {workspace.tables['soft_labels'].uri}: "
        f"{explain_classes(lists, was, classes)}. Class numbers in the tables would mean other classes. To go on with "
        f"these labels, {back}. To have every image labelled again with the new list: ssld run CONFIG --new-classes"
    )
