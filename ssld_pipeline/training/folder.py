"""The folder of a trial: checkpoints, metrics and the final model, on a local disk or in an object store."""

from __future__ import annotations

import json
import uuid
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from ssld_pipeline.inputs.location import filesystem

_KEEP = 2


class TrialFolder:
    """Written by rank 0 alone. A file appears whole or not at all."""

    def __init__(self, uri: str) -> None:
        self._files, self._path = filesystem(uri)
        self._files.makedirs(self._path, exist_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Under a temporary name first: local file systems show a file while it is written; a rename shows it whole."""
        temporary = f"{self._path}/.{name}.{uuid.uuid4().hex[:8]}"
        self._files.pipe_file(temporary, data)
        self._files.mv(temporary, f"{self._path}/{name}")

    def read(self, name: str) -> bytes | None:
        """None where there is no such file."""
        path = f"{self._path}/{name}"
        return bytes(self._files.cat_file(path)) if self._files.exists(path) else None

    def save_checkpoint(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """One safetensors file; ``state`` is JSON in its header. The two newest are kept."""
        header = {"state": json.dumps({**state, "step": step})}
        self.write(f"checkpoint-{step:09d}.safetensors", save(tensors, metadata=header))
        for name in self._checkpoints()[:-_KEEP]:
            self._files.rm_file(f"{self._path}/{name}")

    def load_checkpoint(self, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint of this computation, None where there is none."""
        for name in reversed(self._checkpoints()):
            data = self.read(name)
            if data is None:
                continue
            size = int.from_bytes(data[:8], "little")
            state: dict[str, Any] = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["state"])
            if state["fingerprint"] == fingerprint:
                return load(data), state
        return None

    def remove_checkpoints(self) -> None:
        for name in self._checkpoints():
            self._files.rm_file(f"{self._path}/{name}")

    def _checkpoints(self) -> list[str]:
        self._files.invalidate_cache()
        names = [str(path).rsplit("/", 1)[-1] for path in self._files.ls(self._path, detail=False)]
        return sorted(name for name in names if name.startswith("checkpoint-"))


class MetricsLog:
    """``metrics.jsonl``: one JSON object a line, each with its ``step``; rewritten whole, so that it is never half a line."""

    def __init__(self, folder: TrialFolder, up_to_step: int) -> None:
        """Rows of an earlier process are kept up to the step that this one goes on from."""
        self._folder = folder
        lines = (folder.read("metrics.jsonl") or b"").decode().splitlines()
        self.rows: list[dict[str, Any]] = [row for row in map(json.loads, lines) if row["step"] <= up_to_step] if up_to_step else []

    def add(self, **row: Any) -> None:
        self.rows.append(row)

    def flush(self) -> None:
        self._folder.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows).encode())
