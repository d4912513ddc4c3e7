"""The manifest: the labelled images and, of each class, the mined images of which the teacher is surest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssld_pipeline.stages import mining
from ssld_pipeline.stages.stage import Json, QueryStage

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.config.select import SelectConfig


# One pass over the catalog, in the order of its parts, so that most often the rows need no sorting afterwards.
_MANIFEST = """
SELECT image_id, role, uri, "offset", size_bytes, coalesce(m.class_id, c.class_id) AS class_id, m.score,
       m.rank::INTEGER AS rank, stamp, coalesce(m.filled, false) AS filled
FROM catalog c LEFT JOIN ({mined}) m USING (image_id)
WHERE CASE c.role WHEN 'pool' THEN m.image_id IS NOT NULL
                  WHEN 'labeled' THEN c.class_id IS NOT NULL AND image_id NOT IN (FROM left_out) ELSE false END
"""


def select(tables: duckdb.DuckDBPyConnection, config: RunConfig) -> pa.Table:
    """Rows of ``manifest`` without ``part``, and whether each was filled in, from ``catalog``, ``soft_labels`` and
    ``left_out``.

    Method: Yalniz et al., arXiv:1905.00546, top-k per class; the labelled set is always part of the manifest, without
    copies of protected images.
    """
    settings = config.select
    mining.prepare(tables, settings)
    query = _MANIFEST.format(mined=_mined(tables, settings))
    if settings.exclude:
        query = f"SELECT * FROM ({query}) ANTI JOIN excluded USING (image_id)"
    return tables.sql(query).to_arrow_table()


def _mined(tables: duckdb.DuckDBPyConnection, settings: SelectConfig) -> str:
    """(image_id, class_id, score, rank, filled): the mined images, ranked anew within the class each is taken for."""
    best = mining.best(settings, mining.solved_per_class(tables, settings))
    if settings.min_per_class == 0 and settings.assignment == "top1":
        return f"SELECT *, false AS filled FROM ({best})"
    tables.execute(f"CREATE TEMP TABLE mined AS SELECT image_id, class_id, score, false AS filled FROM ({best})")
    if settings.min_per_class:
        mining.fill(tables, settings)
    return f"SELECT *, {mining.RANK} FROM mined"


def figures(rows: pa.Table) -> dict[str, Json]:
    """How many images were mined and filled in; the number of images of the largest and of the smallest class."""
    import pyarrow.compute as pc

    mined = rows.select(["class_id", "filled"]).filter(pc.is_valid(rows["rank"]))
    by_class = mined.group_by("class_id").aggregate([("filled", "sum"), ("filled", "count")]).sort_by("class_id")
    sizes = by_class["filled_count"].to_pylist()
    filled = {str(row["class_id"]): row["filled_sum"] for row in by_class.to_pylist() if row["filled_sum"]}
    return {
        "mined": mined.num_rows,
        "classes": len(sizes),
        "largest class": max(sizes, default=0),
        "smallest class": min(sizes, default=0),
        "filled": sum(filled.values()),
        "classes filled": len(filled),
        "filled_by_class": filled,
    }


STAGE = QueryStage(
    name="select",
    version=1,
    table="manifest",
    reads=("catalog", "soft_labels"),
    settings=lambda config: config.select.model_dump(mode="json", exclude={"exclude"}),
    query=select,
    figures=figures,
    uses_classes=True,
    is_guarded=True,
    checks=("guard_training",),
    roles=lambda config: ("labeled", "pool"),
    side_files=lambda config: {"select.exclude": config.select.exclude},
)
