"""Decides which images are kept out, on the evidence of ``pairs`` and the user's lists: no pixel is read.

The evidence speaks first: which pairs are copies. Then what the user wants: copies of ``report_only`` are shown and
kept, images on the allow list are kept, images on the deny list are removed. An image that copies both a reported and a
protected image is removed, and an image is removed by one removed pair, whatever its others are. Last, where
``within_pool`` is on, the repeats within the pool (see ``repeats``).

Images that are trained on are decided in the same way; ``trained_on`` says what their copies mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssld_pipeline.config.dedupe import DECISION_FIELDS
from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.contracts import REMOVED
from ssld_pipeline.copies.decision import MAX_BELOW_BEST, Thresholds, is_copy
from ssld_pipeline.errors import UserError
from ssld_pipeline.sql_text import literal, literals
from ssld_pipeline.stages.repeats import add_repeats
from ssld_pipeline.stages.stage import Json, QueryStage

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from ssld_pipeline.config.dedupe import DedupeConfig
    from ssld_pipeline.config.run import RunConfig


def thresholds(config: DedupeConfig) -> Thresholds:
    return Thresholds(**config.model_dump(include=set(DECISION_FIELDS)))


IS_POOL = "coalesce(role, 'pool') = 'pool'"
"""SQL over the columns of ``pairs`` or ``duplicates``: is it of the pool, and not trained on as it is?"""


def is_reported(config: RunConfig) -> str:
    """SQL over the columns of ``pairs``: are copies of this protected image shown and kept?"""
    names = literals(config.inputs_of(config.dedupe.report_only))
    in_pool = f"split_part(protected_id, '/', 1) IN ({names})" if names else "false"
    trained_on = str(config.dedupe.trained_on == "report_only").lower()
    return f"(CASE WHEN {IS_POOL} THEN {in_pool} ELSE {trained_on} END)"


def read_lists(config: DedupeConfig) -> dict[str, list[str]]:
    """The image_ids of ``allow`` and ``deny``, by these names. UserError for an unreadable file, or an id on both."""
    from ssld_pipeline.inputs.id_list import read_ids

    lists = {name: read_ids(getattr(config, name), f"dedupe.{name}") for name in ("allow", "deny")}
    both = sorted(set(lists["allow"]) & set(lists["deny"]))
    if both:
        raise UserError(
            f"dedupe.allow and dedupe.deny: {len(both)} image_ids stand on both lists, the first is {both[0]}; "
            "say for each whether it is kept or removed"
        )
    return lists


def register_lists(tables: duckdb.DuckDBPyConnection, config: DedupeConfig) -> None:
    """The table ``listed`` (list, image_id, is_known, role), from the view ``catalog``; ``list`` is allow or deny, and
    images that are searched are known."""
    import pyarrow as pa

    rows = [(name, image_id) for name, ids in read_lists(config).items() for image_id in ids]
    names, ids = zip(*rows, strict=True) if rows else ((), ())
    tables.register("entries", pa.table({"list": pa.array(names, pa.string()), "image_id": pa.array(ids, pa.string())}))
    # Without a list, the catalog of millions is not read.
    searched = "SELECT image_id, role FROM catalog WHERE role <> 'protected'" if rows else "SELECT '', '' WHERE false"
    tables.execute(f"""
        CREATE OR REPLACE TEMP TABLE listed AS SELECT entries.*, searched.role IS NOT NULL AS is_known, searched.role
        FROM entries LEFT JOIN ({searched}) searched(image_id, role) USING (image_id)""")


def list_files(config: RunConfig) -> dict[str, tuple[str, ...]]:
    return {"dedupe.allow": config.dedupe.allow, "dedupe.deny": config.dedupe.deny}


def images_on(name: str) -> str:
    """Query over the view ``listed``: the known image_ids on the list."""
    return f"SELECT image_id FROM listed WHERE list = {literal(name)} AND is_known"


# A denied image has one denied row, its best pair; its other pairs keep what the evidence says of them.
_DECIDED = """
SELECT * EXCLUDE (is_copy, is_reported, is_allowed, is_denied),
       CASE WHEN is_denied THEN 'denied' WHEN NOT is_copy THEN 'no_copy' WHEN is_reported THEN 'reported'
            WHEN is_allowed THEN 'allowed' ELSE 'copy' END AS verdict
FROM (SELECT pairs.* EXCLUDE (part) REPLACE (coalesce(role, 'pool') AS role), {is_reported} AS is_reported,
             {is_copy} AND score >= max(score) FILTER (WHERE {is_copy})
                 OVER (PARTITION BY image_id, split_part(protected_id, '/', 1)) - {close} AS is_copy,
             image_id IN ({allowed}) AS is_allowed,
             (image_id, protected_id) IN (SELECT (image_id, protected_id) FROM pairs WHERE image_id IN ({denied})
                 QUALIFY row_number() OVER (PARTITION BY image_id
                                            ORDER BY {is_copy} DESC, score DESC, protected_id) = 1) AS is_denied
      FROM pairs)
UNION ALL BY NAME
SELECT image_id, 'denied' AS method, 0 AS num_matches, 0 AS num_inliers, 0 AS score, 0 AS num_blocks, 0 AS coverage,
       false AS flipped, role, 'denied' AS verdict
FROM (SELECT image_id, role FROM listed WHERE list = 'deny' AND is_known) ANTI JOIN pairs USING (image_id)
"""


def decide(tables: duckdb.DuckDBPyConnection, config: RunConfig) -> pa.Table:
    """``duplicates`` rows from the views ``pairs`` and ``catalog``.

    What lists name and the pool does not have, by list, is in the schema's metadata: no row can speak of it.
    """
    register_lists(tables, config.dedupe)
    query = _DECIDED.format(
        is_copy=is_copy(thresholds(config.dedupe)),
        close=MAX_BELOW_BEST,
        is_reported=is_reported(config),
        allowed=images_on("allow"),
        denied=images_on("deny"),
    )
    if config.dedupe.within_pool:
        tables.execute(f"CREATE OR REPLACE TEMP TABLE decided AS {query}")
        add_repeats(tables, _leaks(config), images_on("allow"))
        query = "FROM decided"
    rows = tables.sql(f"SELECT *, verdict IN ({literals(REMOVED)}) AS is_duplicate FROM ({query})").to_arrow_table()
    unknown = tables.execute("SELECT list, count(*) FROM listed WHERE NOT is_known GROUP BY 1").fetchall()
    return rows.replace_schema_metadata({f"unknown in dedupe.{name}": str(num) for name, num in unknown})


def _leaks(config: RunConfig) -> str:
    """Query for (image_id, protected_id): the pool images that copy a protected one, denied ones too, each with its
    best."""
    return f"""SELECT image_id, protected_id FROM pairs
               WHERE {is_copy(thresholds(config.dedupe))} AND NOT {is_reported(config)} AND {IS_POOL}
                     AND image_id NOT IN ({images_on("allow")})
               QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY score DESC, protected_id) = 1"""


def figures(rows: pa.Table) -> dict[str, Json]:
    """Pool images removed, pool images by verdict of their pairs, images that are trained on by role and verdict, and
    how many ids of a list name no image that is searched."""
    import pyarrow.compute as pc

    counts: dict[str, int] = {"removed": 0}
    for role in ("pool", *TRAINED_ON_ROLES):
        own = rows.filter(pc.equal(rows["role"], role))
        if role == "pool":
            counts["removed"] = len(own.filter(own["is_duplicate"])["image_id"].unique())
        images = own.group_by("verdict").aggregate([("image_id", "count_distinct")]).sort_by("verdict").to_pylist()
        prefix = "" if role == "pool" else f"{role} "
        counts |= {f"{prefix}{row['verdict']}": row["image_id_count_distinct"] for row in images}
    unknown = {name.decode(): int(num) for name, num in sorted((rows.schema.metadata or {}).items())}
    return {**counts, **unknown}


def _settings(config: RunConfig) -> dict[str, Json]:
    own = config.dedupe.model_dump(mode="json", include=set(DECISION_FIELDS))
    within_pool = {"within_pool": True} if config.dedupe.within_pool else {}
    # Absent at its default, so that decisions made before there was the setting stay.
    trained_on = {} if config.dedupe.trained_on == "leave_out" else {"trained_on": config.dedupe.trained_on}
    return {**own, "report_only": sorted(config.inputs_of(config.dedupe.report_only)), **within_pool, **trained_on}


STAGE = QueryStage(
    name="dedupe",
    version=9,
    table="duplicates",
    reads=("catalog", "pairs", "repeats"),
    settings=_settings,
    query=decide,
    figures=figures,
    roles=lambda config: ("pool", *TRAINED_ON_ROLES),
    side_files=list_files,
    checks=("check_dedupe", "guard_training"),
)
