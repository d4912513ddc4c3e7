"""The removal list: the pool images that dedupe removes, for whoever applies it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssld_pipeline.errors import UserError
from ssld_pipeline.sql_text import literal

if TYPE_CHECKING:
    from ssld_pipeline.store.workspace import Workspace

FORMATS = ("csv", "txt")

_REMOVALS = """
SELECT image_id, coalesce(role, 'pool') AS role, protected_id, method, score, verdict FROM duplicates WHERE is_duplicate
QUALIFY row_number() OVER (PARTITION BY image_id
                           ORDER BY verdict = 'denied' DESC, score DESC, protected_id NULLS LAST) = 1
ORDER BY image_id
"""


def write_removals(workspace: Workspace, out: Path, format: str) -> Path:
    """One line per removed image, by image_id: as csv with the pair that decides (of several the best; the denied one
    where there is one), as txt the image_id alone, which is also what ``select.exclude`` and ``dedupe.deny`` read.

    UserError where dedupe has not run.
    """
    if workspace.tables["duplicates"].version() is None:
        raise UserError(f"export removals: {workspace.uri} has no duplicates yet; ssld run CONFIG --until dedupe")
    out.parent.mkdir(parents=True, exist_ok=True)
    with workspace.connect("duplicates", is_checked=True) as tables:
        if format == "txt":  # as it is: a quoted image_id would be another one
            ids = tables.execute(f"SELECT image_id FROM ({_REMOVALS}) ORDER BY image_id").fetchall()
            out.write_text("".join(f"{image_id}\n" for (image_id,) in ids), encoding="utf-8")
        else:
            tables.execute(f"COPY ({_REMOVALS}) TO {literal(str(out))} (HEADER, DELIMITER ',')")
    return out
