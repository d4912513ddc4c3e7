"""Which images of a part end the process that decodes them, by a crash or by its memory: each is tried in a child.

Slow, so only for a part that has cost workers already.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

import pyarrow as pa

from ssld_pipeline.errors import BadImage
from ssld_pipeline.inputs.read import ImageReader
from ssld_pipeline.kernels.images import decode
from ssld_pipeline.stages.stage import Reject

_LIMIT_S = 120.0


def without_deadly(
    rows: pa.Table, decode: Callable[[bytes], object] = decode, limit_s: float = _LIMIT_S
) -> tuple[pa.Table, list[Reject]]:
    """The ``rows`` (of ``catalog``) that can be decoded or refused, and rejects of those that ended a child, or took it
    longer than ``limit_s`` seconds."""
    deadly: list[tuple[int, str]] = []
    child = _Child(decode)
    try:
        for number, data in enumerate(ImageReader().read_many(rows)):
            if not isinstance(data, BadImage) and (why := child.fate_of(data, limit_s)):
                deadly.append((number, why))
                child.close()
                child = _Child(decode)
    finally:
        child.close()
    lost = {number for number, _ in deadly}
    image_ids = rows["image_id"]
    rejects = [Reject(image_ids[number].as_py(), "deadly_image", why) for number, why in deadly]
    return rows.filter(pa.array([number not in lost for number in range(rows.num_rows)], pa.bool_())), rejects


class _Child:
    """A process that decodes one image after another."""

    def __init__(self, decode: Callable[[bytes], object]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_decode_all, args=(theirs, decode), daemon=True)
        self._process.start()
        theirs.close()

    def fate_of(self, data: bytes, limit_s: float) -> str:
        """Why the child ended; empty where it lives on."""
        try:
            self._pipe.send_bytes(data)
            if not self._pipe.poll(limit_s):
                return f"decoding it took more than {limit_s:.0f} s"
            self._pipe.recv_bytes()
        except (EOFError, OSError):
            self._process.join()
            return f"decoding it ended the process with exit code {self._process.exitcode}"
        return ""

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()


def _decode_all(pipe: Connection, decode: Callable[[bytes], object]) -> None:
    while True:
        try:
            decode(pipe.recv_bytes())
        except BadImage:
            pass
        except EOFError:  # the parent has gone
            return
        pipe.send_bytes(b"done")
