"""The manifest: the labelled images and, of each class, the mined images of which the teacher is surest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from ssld_pipeline.config.settings import Settings, SideFiles
from ssld_pipeline.stages import mining
from ssld_pipeline.stages.stage import Json, QueryStage

if TYPE_CHECKING:
    from typing import Self

    import duckdb
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig


class SelectConfig(Settings):
    per_class: int = Field(4000, gt=0)
    """Most mined images per class. Unpublished; 4000 fits the publication's total of nearly 4 million."""
    target_total: int | None = Field(None, gt=0)
    """Mined images wanted in all: takes the largest per_class that makes no more, in place of the one given. What
    min_per_class adds comes on top."""
    assignment: Literal["top1", "top_p"] = "top1"
    """top1: an image belongs to its most probable class. top_p: it counts for its `top_p` most probable classes, and
    enters once, for the class in whose list it stands highest."""
    top_p: int = Field(10, gt=1)
    """Classes an image counts for with assignment top_p, and where min_per_class looks; at most label.num_kept."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Images whose teacher probability is below this are not mined."""
    min_per_class: int = Field(0, ge=0)
    """A class that would get fewer is filled up to this with the best images that nobody took: scores below min_score,
    and images whose second to `top_p`-th class it is. What was filled is counted. 0: nothing is filled."""
    exclude: SideFiles = ()
    """Text files of image_ids, one a line, that never enter the manifest."""

    @model_validator(mode="after")
    def _fills_no_more_than_it_takes(self) -> Self:
        if self.target_total is None and self.min_per_class > self.per_class:
            raise ValueError(f"min_per_class must be at most per_class ({self.per_class}), got {self.min_per_class}")
        return self


# One pass over the catalog, in the order of its parts, so that most often the rows need no sorting afterwards.
_MANIFEST = """
SELECT image_id, role, uri, "offset", size_bytes, coalesce(m.class_id, c.class_id) AS class_id, m.score,
       m.rank::INTEGER AS rank, stamp, coalesce(m.filled, false) AS filled
FROM catalog c LEFT JOIN ({mined}) m USING (image_id)
WHERE CASE c.role WHEN 'pool' THEN m.image_id IS NOT NULL WHEN 'labeled' THEN c.class_id IS NOT NULL ELSE false END
"""


def select(tables: duckdb.DuckDBPyConnection, config: RunConfig) -> pa.Table:
    """Rows of ``manifest`` without ``part``, and whether each was filled in, from ``catalog`` and ``soft_labels``.

    Method: Yalniz et al., arXiv:1905.00546, top-k per class; the labelled set is always part of the manifest.
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
    roles=lambda config: ("labeled", "pool"),
    side_files=lambda config: {"select.exclude": config.select.exclude},
)
