"""``metrics.jsonl``: a JSON object a line, each with its ``step``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from ssld_pipeline.training.folder import TrialFolder

_log = logging.getLogger(__name__)
_NAME = "metrics.jsonl"


class MetricsLog:
    """Appended to on a local disk, written as a whole to an object store. Half a line, which a kill may leave, is left
    out by the next process."""

    def __init__(self, folder: TrialFolder, up_to_step: int) -> None:
        """Rows of an earlier process are kept up to the step that this one goes on from."""
        self._folder, self._num_written = folder, -1
        lines = (folder.read(_NAME) or b"").splitlines() if up_to_step else []
        self.rows = [row for row in self._whole(lines) if row["step"] <= up_to_step]

    def _whole(self, lines: list[bytes]) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                int(row["step"])
            except (ValueError, KeyError, TypeError):
                _log.warning("%s/%s: line %d is damaged and left out", self._folder.uri, _NAME, number)
            else:
                yield row

    def add(self, **row: Any) -> None:
        self.rows.append(row)

    def flush(self) -> None:
        """Write the rows added since; the first time all, without those that the process before had beyond."""
        if self._num_written < 0 or not self._folder.can_append:
            self._folder.write(_NAME, _lines(self.rows))
        elif new := self.rows[self._num_written :]:
            self._folder.append(_NAME, _lines(new))
        self._num_written = len(self.rows)


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
