"""The folder of a trial: checkpoints, metrics and the final model, on a local disk or in an object store."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ssld_pipeline.inputs.location import filesystem, is_local

_KEEP = 2
_PREFIX = "checkpoint-"


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

    def read(self, name: str) -> bytes | None:
        """None where there is no such file."""
        path = f"{self._path}/{name}"
        return bytes(self._files.cat_file(path)) if self._files.exists(path) else None

    def save_checkpoint(self, fingerprint: str, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """One safetensors file with ``state`` as JSON in its header; the two newest of ``fingerprint`` are kept."""
        header = {"state": json.dumps({**state, "step": step})}
        self.write(f"{_prefix(fingerprint)}{step:09d}.safetensors", save(tensors, metadata=header))
        for name in self._names(_prefix(fingerprint))[:-_KEEP]:
            self._files.rm_file(f"{self._path}/{name}")

    def newest_checkpoint(self, fingerprint: str) -> Checkpoint | None:
        """The newest of this computation that is whole; after a power cut even a renamed file may be cut short."""
        for name in reversed(self._names(_prefix(fingerprint))):
            try:
                return self.checkpoint(name)
            except (SafetensorError, ValueError):
                continue
        return None

    def checkpoint(self, name: str) -> Checkpoint:
        data = self.read(name) or b""
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return Checkpoint(name, tensors, json.loads(header["__metadata__"]["state"]))

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


def _prefix(fingerprint: str) -> str:
    """Checkpoints of another computation in the same folder are neither read nor counted."""
    return f"{_PREFIX}{hashlib.blake2b(fingerprint.encode(), digest_size=6).hexdigest()}-"


class MetricsLog:
    """``metrics.jsonl``: a JSON object a line, each with its ``step``; always written anew, so never half a line."""

    def __init__(self, folder: TrialFolder, up_to_step: int) -> None:
        """Rows of an earlier process are kept up to the step that this one goes on from."""
        self._folder = folder
        lines = (folder.read("metrics.jsonl") or b"").decode().splitlines() if up_to_step else []
        self.rows: list[dict[str, Any]] = [row for row in map(json.loads, lines) if row["step"] <= up_to_step]

    def add(self, **row: Any) -> None:
        self.rows.append(row)

    def flush(self) -> None:
        self._folder.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows).encode())
