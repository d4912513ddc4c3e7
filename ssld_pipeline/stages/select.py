"""The manifest: the labelled images and, of each class, the mined images of which the teacher is surest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ssld_pipeline.settings import Settings, SideFiles
from ssld_pipeline.stages.stage import QueryStage

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from ssld_pipeline.config import RunConfig


class SelectConfig(Settings):
    per_class: int = Field(4000, gt=0)
    """Most mined images per class. Unpublished; 4000 fits the publication's total of nearly 4 million."""
    assignment: Literal["top1"] = "top1"
    """top1: an image belongs to its most probable class."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Images whose teacher probability is below this are not mined."""
    exclude: SideFiles = ()
    """Text files of image_ids, one a line, that never enter the manifest."""


# Ties go to the smaller image_id, so that the manifest does not depend on the order of parts.
_QUERY = """
WITH excluded AS (SELECT unnest($excluded::VARCHAR[]) AS image_id),
ranked AS (
    SELECT image_id, top1_class AS class_id, top1_prob AS score,
           row_number() OVER (PARTITION BY top1_class ORDER BY top1_prob DESC, image_id) AS rank
    FROM soft_labels ANTI JOIN excluded USING (image_id) WHERE view = 0 AND top1_prob >= $min_score
)
SELECT image_id, role, uri, "offset", size_bytes, r.class_id, score, rank::INTEGER AS rank, stamp
FROM ranked r JOIN catalog c USING (image_id) WHERE rank <= $per_class AND c.role = 'pool'
UNION ALL
SELECT image_id, role, uri, "offset", size_bytes, class_id, NULL, NULL, stamp
FROM catalog ANTI JOIN excluded USING (image_id) WHERE role = 'labeled' AND class_id IS NOT NULL
"""


def select(tables: duckdb.DuckDBPyConnection, config: RunConfig) -> pa.Table:
    """Rows of ``manifest`` without ``part``, from the views ``catalog`` and ``soft_labels``.

    Method: Yalniz et al., arXiv:1905.00546, top-k per class; the labelled set is always part of the manifest.
    """
    from ssld_pipeline.inputs.id_list import read_ids

    excluded = read_ids(config.select.exclude, "select.exclude")
    parameters = {"per_class": config.select.per_class, "min_score": config.select.min_score, "excluded": excluded}
    return tables.sql(_QUERY, params=parameters).to_arrow_table()


STAGE = QueryStage(
    name="select",
    version=1,
    table="manifest",
    reads=("catalog", "soft_labels"),
    settings=lambda config: config.select.model_dump(mode="json", exclude={"exclude"}),
    query=select,
    roles=lambda config: ("labeled", "pool"),
    side_files=lambda config: {"select.exclude": config.select.exclude},
)
