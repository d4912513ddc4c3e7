"""Survey the inputs as they are now, the class list, and the digests of weights and side files.

Reads listings and file stamps only, never an image; raises UserError for what makes a run impossible.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.errors import UserError
from ssld_pipeline.inputs.labels import composed
from ssld_pipeline.store import files
from ssld_pipeline.store.damage import DamagedFile
from ssld_pipeline.store.fingerprints import digest, digest_file

if TYPE_CHECKING:
    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.inputs.listing import Shard
    from ssld_pipeline.stages.stage import Reject

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """``listing_rejects``: by input name, what could not even be listed. ``roots``: input name -> its root."""

    config: RunConfig
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    listing_rejects: dict[str, tuple[Reject, ...]]
    roots: dict[str, str]

    def unlisted(self) -> tuple[str, ...]:
        """First parts of the names of all images in folders that could not be listed."""
        rejects = (r for found in self.listing_rejects.values() for r in found)
        return tuple(r.image_id.rstrip("/") for r in rejects if r.reason == "unreadable")

    def inputs_of(self, roles: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the inputs that a list of roles or names means."""
        return self.config.inputs_of(roles)


def survey(config: RunConfig) -> Survey:
    from ssld_pipeline.inputs.label_reading import with_labels
    from ssld_pipeline.inputs.listing import list_shards
    from ssld_pipeline.stages.dedupe import read_lists

    read_lists(config.dedupe)  # before the search that they are a decision on
    classes = class_names(config)
    shards: list[Shard] = []
    rejects: dict[str, tuple[Reject, ...]] = {}
    named = config.named_inputs()
    for name, (role, item) in named.items():
        found, bad = list_shards(name, role, item.uri, item.format, config.catalog.images_per_part)
        shards += with_labels(found, classes, item.labels)
        rejects[name] = tuple(bad)
        _refuse_unlisted(name, role, config, bad)
    roots = {s.input_name: s.root for s in shards}
    return Survey(config, classes, tuple(shards), rejects, roots)


def _refuse_unlisted(name: str, role: str, config: RunConfig, bad: list[Reject]) -> None:
    unlisted = [r for r in bad if r.reason == "unreadable"]
    if unlisted and (role in config.dedupe.against or name in config.dedupe.against):
        raise UserError(
            f"inputs.{role}: {len(unlisted)} folders or files of {name} cannot be listed, so their copies would stay "
            f"in the pool: {unlisted[0].image_id} ({unlisted[0].detail}). Repair permissions or disk, or move them out "
            f"of the input"
        )


def class_names(config: RunConfig) -> tuple[str, ...]:
    """Line i names class i. UserError for an empty list, a repeated name, or no way to know the classes."""
    if config.classes is not None:
        names = _lines(config.classes)
        origin = config.classes
    else:
        folders = [i for i in config.inputs.labeled if i.format == "folder" and i.labels == "auto"]
        if not folders:
            raise UserError(
                "classes: missing. Give a text file with one class a line, or a labeled input whose folders are "
                "called by its classes"
            )
        names = _one_form({name for item in folders for name in _class_folders(item.uri)})
        origin = f"class folders of {', '.join(i.uri for i in folders)}"
    forms = Counter(map(composed, names))
    repeated = sorted(name for name, count in forms.items() if count > 1)
    if repeated:
        note = (
            ""
            if repeated[0] in {n for n, c in Counter(names).items() if c > 1}
            else (", in forms that look alike but differ in Unicode (composed and decomposed)")
        )
        raise UserError(f"classes: {repeated[0]!r} is listed more than once in {origin}{note}; remove one of the lines")
    if len(names) < 2:
        raise UserError(f"classes: expected at least 2 in {origin}, got {len(names)}")
    return names


def _one_form(names: set[str]) -> tuple[str, ...]:
    """Sorted. Names that differ only in Unicode normalisation are one class, called by the composed form."""
    return tuple(sorted(name for name in names if name == composed(name) or composed(name) not in names))


def _lines(uri: str) -> tuple[str, ...]:
    """Every line is a name: an empty line would shift all classes after it."""
    try:
        text = files.read_bytes(uri).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"classes: {uri} cannot be read: {error}") from None
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    if "" in lines:
        raise UserError(f"classes: line {lines.index('') + 1} of {uri} is empty; line i names class i - 1, so fill it")
    return tuple(lines)


def _class_folders(uri: str) -> tuple[str, ...]:
    from ssld_pipeline.inputs.listing import class_folders

    try:
        return class_folders(uri)
    except OSError as error:
        raise UserError(f"inputs.labeled: {uri} cannot be listed: {error.strerror or error}") from None


class FileDigests:
    """Digests of weights and side files, remembered by path, size and time in ``<workspace>/.digests.json``."""

    def __init__(self, workspace: str) -> None:
        self._uri = files.join(workspace, ".digests.json")
        self._known = self._read()
        self._found: dict[str, str] = {}

    def _read(self) -> dict[str, str]:
        try:
            return files.read_sealed(self._uri) or {}
        except DamagedFile as damage:
            _log.warning("%s is damaged (%s), so the digests are computed again", damage.uri, damage.why)
            return {}

    def of(self, uri: str, setting: str) -> str:
        """UserError when there is no such file; ``setting`` is the dotted name of the setting that names it."""
        key = self._key(uri, setting)
        if key not in self._found:
            self._found[key] = self._known.get(key) or digest_file(uri)
        return self._found[key]

    def remember(self) -> None:
        if self._found.items() - self._known.items():
            files.write_sealed(self._uri, self._found)

    def _key(self, uri: str, setting: str) -> str:
        if not files.is_local(uri):
            import fsspec

            filesystem, path = fsspec.core.url_to_fs(uri)
            try:
                info: dict[str, Any] = filesystem.info(path)
            except OSError as error:
                raise UserError(f"{setting}: {uri} cannot be read: {error}") from None
            return digest(
                [uri, info.get("size"), str(info.get("ETag") or info.get("mtime") or info.get("LastModified"))]
            )
        path = Path(files.local_path(uri))
        if not path.is_file():
            raise UserError(f"{setting}: {path} does not exist or is no file")
        status = path.stat()
        return digest([str(path), status.st_size, status.st_mtime_ns])
