"""Laws about bytes, which ``ssld verify --deep`` checks: every file of the workspace is what was written.

Reads all of it, 840 MB/s a core, whatever was compared before; parts by older programs 120 MB/s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ssld_pipeline.errors import UserError
from ssld_pipeline.pipeline import stages
from ssld_pipeline.store import files
from ssld_pipeline.store.class_lists import ClassLists
from ssld_pipeline.store.damage import DamagedFile
from ssld_pipeline.verify.laws import Law, Verdict

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.store.workspace import Workspace

_MOST_EXAMPLES = 5
_NOTES = (".digests.json", ".roots.json")


def verify_files(workspace: Workspace, config: RunConfig) -> Sequence[Verdict]:
    """One verdict per law, in order; each example names a file, what is wrong with it, and what to do."""
    checks = (
        ("files_logs", "every log of a table is whole and lists what was committed last", _logs(workspace)),
        ("files_parts", "every part has the bytes that were written", _parts(workspace)),
        (
            "files_artifacts",
            "every file of an artifact and a model has the bytes of its record",
            _artifacts(workspace, config),
        ),
        ("files_checkpoints", "every checkpoint and every mark of a finished training is whole", _trainings(workspace)),
        ("files_notes", "records, class lists and the notes of the workspace are whole", _notes(workspace, config)),
    )
    verdicts = []
    for name, says, damage in checks:
        found = [str(error) for error in damage]
        verdicts.append(Verdict(Law(name, says, ""), len(found), found[:_MOST_EXAMPLES]))
    return verdicts


def first_damage(workspace: Workspace, config: RunConfig) -> UserError | None:
    """None where every table and artifact is whole. Reads all of them."""
    for damage in (_logs(workspace), _parts(workspace), _notes(workspace, config), _artifacts(workspace, config)):
        for found in damage:
            return found
    return None


def _logs(workspace: Workspace) -> Iterator[UserError]:
    for table in workspace.tables.values():
        try:
            found = list(table.log_damage())
            yield from found
            if not found:
                table.parts()
        except UserError as error:  # of the note on the last commit, of a part that no stage wrote
            yield error


def _parts(workspace: Workspace) -> Iterator[DamagedFile]:
    for table in workspace.tables.values():
        try:
            parts = table.parts().values()
        except UserError:  # said of its log
            continue
        for part, why in table.damaged(parts, again=True):
            yield DamagedFile(files.join(table.uri, part.file), why)


def _artifacts(workspace: Workspace, config: RunConfig) -> Iterator[DamagedFile]:
    for stage in stages(config):
        artifact = workspace.artifact(stage.name)
        if stage.table is None and (record := artifact.usable_record()):
            yield from artifact.damaged(record)


def _trainings(workspace: Workspace) -> Iterator[DamagedFile]:
    """In the folders of finished trainings, and of those that a run was stopped in."""
    for stage in workspace.models():
        folder = workspace.artifact(stage).uri
        for path in files.stamps(folder):
            uri, name = files.join(folder, path), path.rsplit("/", 1)[-1]
            if name == "final.json":
                try:
                    files.read_sealed(uri, "Remove this file: with the record it is no longer needed")
                except DamagedFile as damage:
                    yield damage
            elif name.startswith("checkpoint-") and (why := _checkpoint_problem(uri)):
                yield DamagedFile(uri, why, "Remove this file: training continues from the one before it")


def _checkpoint_problem(uri: str) -> str:
    from ssld_pipeline.training.folder import DAMAGE, TrialFolder

    folder, name = uri.rsplit("/", 1)
    try:
        TrialFolder(folder).checkpoint(name)
    except DAMAGE as error:
        return str(error) or type(error).__name__
    return ""


def _notes(workspace: Workspace, config: RunConfig) -> Iterator[UserError]:
    for stage in stages(config):
        if stage.table is None:
            try:
                workspace.artifact(stage.name).record()
            except UserError as error:
                yield error
    yield from ClassLists(workspace.uri).damaged()
    for name in _NOTES:
        try:
            files.read_sealed(files.join(workspace.uri, name))
        except DamagedFile as damage:
            yield damage
