"""hold_out: keeps some labelled images from the teacher's fit, so that check_teacher measures on images it never saw.

Held out is a share of each class, drawn by image_id. The same picture may stand in two inputs, such as the labelled set
and ``teacher.fit.data``: what equals a held-out image, by its bytes or as a picture, is kept from the fit, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.kernels.digests import hash64
from ssld_pipeline.stages.look import open_look
from ssld_pipeline.stages.stage import ArtifactStage, Json, Reject, Setup

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig

FILE = "held_out.parquet"
"""image_id (string) and ``copies`` (string): null for a held-out image, else the held-out image that it equals."""
MAX_IMAGES = 2000


def build(setup: Setup, rows: pa.Table, folder: Path) -> tuple[dict[str, Json], list[Reject]]:
    """Writes ``held_out.parquet`` from catalog rows. Figures: ``num_held_out``, ``num_equal`` to one of them,
    and how many of both the fit would have read (``num_left_out``). Rejects: images that cannot be compared."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fit = setup.config.teacher.fit
    assert fit is not None
    labelled = labelled_rows(rows)
    held_out = set(sample(labelled, min(MAX_IMAGES, round(fit.held_out * len(labelled))))["image_id"].to_pylist())
    seen = open_look(setup)(labelled)
    equal = _equal_to(held_out, seen.rows, setup.num_threads)
    names = [*sorted(held_out), *sorted(equal)]
    table = pa.table(
        {
            "image_id": pa.array(names, pa.string()),
            "copies": pa.array([equal.get(name) for name in names], pa.string()),
        }
    )
    pq.write_table(table, folder / FILE)
    num_left_out = len({*names} & {*fitted_rows(labelled, setup.config)["image_id"].to_pylist()})
    figures = {"num_held_out": len(held_out), "num_equal": len(equal), "num_left_out": num_left_out}
    return figures, seen.rejects


def labelled_rows(rows: pa.Table) -> pa.Table:
    """Those with a class, of the roles whose labels networks are trained on."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_labelled = pc.is_valid(rows["class_id"])
    return rows.filter(pc.and_(is_labelled, pc.is_in(rows["role"], pa.array(TRAINED_ON_ROLES, pa.string()))))


def fitted_rows(rows: pa.Table, config: RunConfig) -> pa.Table:
    """Those of the role that the teacher is fitted on."""
    import pyarrow.compute as pc

    role = "teacher" if config.teacher.fit and config.teacher.fit.data else "labeled"
    return rows.filter(pc.equal(rows["role"], role))


def sample(rows: pa.Table, count: int) -> pa.Table:
    """At most ``count`` rows with a class, as many of each class as of any other while they last, drawn by image_id.

    The order of ``rows`` does not matter, so neither does how the inputs were cut into parts.
    """
    import numpy as np

    class_ids = rows["class_id"].to_numpy()
    drawn = np.array([hash64(i) for i in rows["image_id"].to_pylist()], dtype=np.uint64)
    by_class = np.lexsort((drawn, class_ids))
    _, starts, sizes = np.unique(class_ids[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(rows), dtype=np.int64)
    rank[by_class] = np.arange(len(rows)) - np.repeat(starts, sizes)
    return rows.take(np.lexsort((drawn, rank))[:count])


def read_held_out(folder: Path) -> tuple[list[str], list[str]]:
    """(held-out image_ids, all image_ids that the fit leaves out)."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / FILE).to_pylist()
    return [row["image_id"] for row in rows if row["copies"] is None], [row["image_id"] for row in rows]


def _equal_to(held_out: set[str], looks: pa.Table, num_threads: int) -> dict[str, str]:
    """image_id -> a held-out image of the same bytes, or of the same picture as far as thumbnails tell."""
    from ssld_pipeline.copies.within_pool.near_pairs import near_pairs

    names: list[str] = looks["image_id"].to_pylist()
    by_digest: dict[str, str] = {}
    found: dict[str, str] = {}
    pairs = zip(names, looks["digest"].to_pylist(), strict=True)
    for name, digest in (own := list(pairs)):
        if name in held_out:
            by_digest.setdefault(digest, name)
    for name, digest in own:
        if name not in held_out and digest in by_digest:
            found[name] = by_digest[digest]
    for first, second in near_pairs(_thumbnails(looks), num_threads).tolist():
        for name, other in ((names[first], names[second]), (names[second], names[first])):
            if other in held_out and name not in held_out:
                found.setdefault(name, other)
    return found


def _thumbnails(looks: pa.Table) -> npt.NDArray[np.uint8]:
    import numpy as np

    rows: list[Any] = looks["thumbnail"].to_pylist()
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1 if rows else 1024)


def settings(config: RunConfig) -> dict[str, Json]:
    assert config.teacher.fit is not None
    return {"held_out": config.teacher.fit.held_out}


STAGE = ArtifactStage(
    name="hold_out",
    version=1,
    reads=("catalog",),
    is_guarded=True,
    checks=("guard_training",),
    settings=settings,
    build=build,
    roles=lambda config: TRAINED_ON_ROLES,
    enabled=lambda config: config.teacher.fit is not None and config.teacher.fit.held_out > 0,
)
