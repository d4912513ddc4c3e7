"""The folder of a trial: checkpoints, metrics and the final model, on a local disk or in an object store."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ssld_pipeline.inputs.location import filesystem, is_local
from ssld_pipeline.sealed import seal, unseal
from ssld_pipeline.training.job import MODEL_FILES

_log = logging.getLogger(__name__)
_KEEP = 2
_PREFIX = "checkpoint-"
_FINAL = "final.json"
DAMAGE = (SafetensorError, ValueError, KeyError, TypeError, AttributeError)  # what reading a damaged file may raise
_NO_DIGEST = b'"digest":"0000000000000000"'


class Checkpoint(NamedTuple):
    """``state``: JSON values, among them ``step``, the number of steps done."""

    name: str
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class TrialFolder:
    """Written by rank 0 alone. A file appears whole or not at all."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._files, self._path = filesystem(uri)
        self._shows_half_files = is_local(uri)
        self._files.makedirs(self._path, exist_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """An object store shows a file when it is whole; on a local disk a rename does."""
        target = f"{self._path}/{name}"
        if not self._shows_half_files:
            self._files.pipe_file(target, data)
            return
        temporary = f"{self._path}/.{name}.{uuid.uuid4().hex[:8]}"
        self._files.pipe_file(temporary, data)
        self._files.mv(temporary, target)

    @property
    def can_append(self) -> bool:
        """An object store can only write whole files."""
        return self._shows_half_files

    def append(self, name: str, data: bytes) -> None:
        """To a file on a local disk; a reader, or a kill, may see half of ``data``."""
        with self._files.open(f"{self._path}/{name}", "ab") as file:
            file.write(data)

    def remove(self, name: str) -> None:
        self._files.rm_file(f"{self._path}/{name}")

    def read(self, name: str) -> bytes | None:
        """None where there is no such file."""
        path = f"{self._path}/{name}"
        return bytes(self._files.cat_file(path)) if self._files.exists(path) else None

    def save_checkpoint(self, fingerprint: str, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """One safetensors file with ``state`` as JSON in its header, and the digest of the file, which takes 1.2 ms a
        MB. Kept are the two newest of ``fingerprint`` up to ``step``; later ones are of a run that was given up."""
        header = {"state": json.dumps({**state, "step": step}), "digest": "0" * 16}
        data = _with_digest(save(tensors, metadata=header))
        own = _name(fingerprint, step)
        self.write(own, data)
        kept = [name for name in self.checkpoints(fingerprint) if name <= own][:_KEEP]
        for name in set(self.checkpoints(fingerprint)) - set(kept):
            self.remove(name)

    def steps(self, fingerprint: str) -> list[int]:
        """Of the checkpoints of this computation, whole or not, the newest first."""
        found = (name.removeprefix(_prefix(fingerprint)).partition(".")[0] for name in self.checkpoints(fingerprint))
        return [int(step) for step in found if step.isdecimal()]

    def whole_checkpoint(self, fingerprint: str, step: int) -> Checkpoint | None:
        """The log names one that is damaged or gone."""
        name = _name(fingerprint, step)
        try:
            return self.checkpoint(name)
        except DAMAGE as error:
            _log.warning("checkpoint %s/%s is damaged and not used: %s", self.uri, name, error)
            return None

    def newest_checkpoint(self, fingerprint: str) -> Checkpoint | None:
        """The newest of this computation that is whole. The log names those that are not: after a power cut a renamed
        file may be cut short, and a disk may change bytes."""
        found = (self.whole_checkpoint(fingerprint, step) for step in self.steps(fingerprint))
        return next((checkpoint for checkpoint in found if checkpoint is not None), None)

    def checkpoints(self, fingerprint: str | None = None) -> list[str]:
        """Names, the newest first; of all computations where none is given."""
        return self._names(_prefix(fingerprint) if fingerprint else _PREFIX)[::-1]

    def checkpoint(self, name: str) -> Checkpoint:
        """Raises one of ``DAMAGE`` if the file is not what was written. Of files by older programs, which have no
        digest, a cut is noticed."""
        data = self.read(name) or b""
        _require_digest(data)
        tensors = load(data)
        return Checkpoint(name, tensors, json.loads(_header(data)["__metadata__"]["state"]))

    def finish(self, fingerprint: str, metrics: dict[str, Any]) -> None:
        """Write ``final.json``, which says that the model is done, and remove the checkpoints."""
        digests = {name: _digest(self.read(name) or b"") for name in MODEL_FILES}
        value = seal({"fingerprint": fingerprint, "metrics": metrics, "files": digests})
        self.write(_FINAL, json.dumps(value).encode())
        self.remove_checkpoints()

    def finished(self, fingerprint: str) -> dict[str, Any] | None:
        """The metrics of the model, where it is done and its files are what was written."""
        data = self.read(_FINAL)
        if data is None:
            return None
        try:
            final = unseal(json.loads(data))
        except ValueError as error:
            _log.warning("%s/%s is damaged, so the model is trained again: %s", self.uri, _FINAL, error)
            return None
        if final.get("fingerprint") != fingerprint:
            return None
        digests = final.get("files", {})  # older programs wrote none
        for name in MODEL_FILES:
            found = self.read(name)
            if found is None or digests.get(name) not in (None, _digest(found)):
                _log.warning("%s/%s is damaged or missing, so the model is trained again", self.uri, name)
                return None
        return dict(final["metrics"])

    def remove_checkpoints(self) -> None:
        """All of them, of whatever computation, and what killed processes left half written."""
        for name in self._names(_PREFIX) + self._names(f".{_PREFIX}"):
            self._files.rm_file(f"{self._path}/{name}")

    def _names(self, prefix: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            paths = self._files.ls(self._path, detail=False)
        except FileNotFoundError:  # an object store has no empty folders
            return []
        names = [str(path).rsplit("/", 1)[-1] for path in paths]
        return sorted(name for name in names if name.startswith(prefix))


def _name(fingerprint: str, step: int) -> str:
    return f"{_prefix(fingerprint)}{step:09d}.safetensors"


def _prefix(fingerprint: str) -> str:
    """Checkpoints of another computation in the same folder are neither read nor counted."""
    return f"{_PREFIX}{hashlib.blake2b(fingerprint.encode(), digest_size=6).hexdigest()}-"


def _header(data: bytes) -> Any:
    return json.loads(data[8 : _header_end(data)])


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _digest(data: bytes | bytearray) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _with_digest(data: bytes) -> bytes:
    """The same safetensors file with the digest of its bytes, computed with zeros in its place."""
    place = data.index(_NO_DIGEST, 8, _header_end(data)) + len(_NO_DIGEST) - 17
    return b"".join((data[:place], _digest(data).encode(), data[place + 16 :]))


def _require_digest(data: bytes) -> None:
    """Raises ValueError if the bytes are not those whose digest the header holds."""
    metadata = _header(data)["__metadata__"]
    if metadata.keys() == {"state"}:  # of an older program
        return
    written = metadata["digest"]
    place = data.find(b'"digest":"' + str(written).encode(), 8, _header_end(data)) + len(b'"digest":"')
    plain = bytearray(data)
    plain[place : place + 16] = b"0" * 16
    if _digest(plain) != written:
        raise ValueError("its bytes are not those that were written")
