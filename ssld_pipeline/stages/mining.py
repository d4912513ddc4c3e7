"""Which images are the best of each class, as DuckDB queries over the view ``soft_labels``.

A *pair* is an image and a class it counts for, with the teacher's probability as its score. With ``assignment: top1``
an image has one pair, with ``top_p`` one for each of its ``top_p`` best classes. Every order is total: pairs of a class
fall by score, ties go to the smaller image_id; so nothing depends on the order of rows, parts or threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssld_pipeline.errors import UserError

if TYPE_CHECKING:
    import duckdb

    from ssld_pipeline.config.select import SelectConfig

_MOST_CUT = 999_999  # DuckDB's max(value, n) takes no more


def prepare(tables: duckdb.DuckDBPyConnection, select: SelectConfig) -> None:
    """Adds the view ``excluded`` of image_ids that the queries of this module leave out, and fixes how joins are done.

    Of a join the side written first is streamed and the other one hashed; left to itself, DuckDB guesses sizes from the
    first of many Parquet files and hashes the catalog: 4.5 GB instead of 1.5 for 14 million rows.
    """
    import pyarrow as pa

    from ssld_pipeline.inputs.id_list import read_ids

    ids = read_ids(select.exclude, "select.exclude")
    tables.register("excluded", pa.table({"image_id": pa.array(ids, pa.string())}))
    tables.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")


def pairs(select: SelectConfig, num_places: int) -> str:
    """(image_id, class_id, score) of the ``num_places`` best classes of each image that is not excluded.

    The first place has the unrounded probability.
    """
    source = "soft_labels ANTI JOIN excluded USING (image_id)" if select.exclude else "soft_labels"
    if num_places == 1:
        return f"SELECT image_id, top1_class AS class_id, top1_prob AS score FROM {source} WHERE view = 0"
    return f"""SELECT image_id, unnest(class_ids[1:{num_places}]) AS class_id,
               unnest(list_prepend(top1_prob, probs[2:{num_places}])) AS score FROM {source} WHERE view = 0"""


def eligible(select: SelectConfig) -> str:
    """The pairs that the assignment counts and whose score reaches the floor."""
    return f"SELECT * FROM ({pairs(select, _num_places(select))}) WHERE score >= {select.min_score!r}::DOUBLE"


def best(select: SelectConfig, per_class: int) -> str:
    """(image_id, class_id, score, rank): the images that are among the ``per_class`` best of a class, each once.

    ``rank`` counts the class's eligible pairs. Of the classes whose best it is among, an image goes to the one where
    its rank is smallest, then its score largest, then class_id smallest. So its class does not depend on ``per_class``,
    and the images are the union of Yalniz et al. (arXiv:1905.00546), who take each class's list as it is.
    """
    if select.assignment == "top1":
        return f"SELECT *, {RANK} FROM ({eligible(select)}) QUALIFY rank <= {per_class}"
    # The score at the cut comes first, from numbers alone: ranking all pairs would sort P image_ids of every image, and
    # a CTE that is used twice would be kept whole, were it not for NOT MATERIALIZED.
    return f"""
        WITH eligible AS NOT MATERIALIZED ({eligible(select)}),
        least AS (SELECT class_id, list_last(max(score, {min(per_class, _MOST_CUT)})) AS least
                  FROM eligible GROUP BY 1),
        near AS (SELECT image_id, class_id, score FROM eligible JOIN least USING (class_id)
                 WHERE score >= least OR {per_class > _MOST_CUT}),
        ranked AS (SELECT *, {RANK} FROM near QUALIFY rank <= {per_class})
        SELECT * FROM ranked
        QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY rank, score DESC, class_id) = 1"""


RANK = "row_number() OVER (PARTITION BY class_id ORDER BY score DESC, image_id) AS rank"


def solved_per_class(tables: duckdb.DuckDBPyConnection, select: SelectConfig) -> int:
    """``select.per_class``, or with ``target_total`` the largest that mines no more images than that."""
    if select.target_total is None:
        return select.per_class
    sizes = [n for (n,) in tables.execute(f"SELECT count(*) FROM ({eligible(select)}) GROUP BY class_id").fetchall()]
    if select.assignment == "top1":
        return _largest_cut(sizes, select.target_total)
    # So many images have at most P times as many pairs: no rank beyond those of that many pairs can matter.
    deepest = _largest_cut(sizes, select.top_p * select.target_total) + 1
    ranks = f"SELECT rank, count(*) FROM ({best(select, deepest)}) GROUP BY 1 ORDER BY 1"
    return _last_rank(tables.execute(ranks).fetchall(), select.target_total, deepest)


def fill(tables: duckdb.DuckDBPyConnection, select: SelectConfig) -> None:
    """Adds to the table ``mined`` until each class has ``min_per_class`` images, or no free image counts for it.

    Free are images that are not mined, with all their ``top_p`` best classes and whatever their score. Their pairs are
    taken by falling score (then image_id, class_id), as long as the class is short and the image free. That is the one
    stable matching of classes and images; it is found in rounds (Gale and Shapley, 1962): each class asks for its best,
    an image asked for twice refuses the lower score, and who was refused asks again.
    """
    tables.execute(f"""
        CREATE TEMP TABLE wanted AS
        SELECT image_id, class_id, score, {select.min_per_class} - coalesce(num, 0) AS missing
        FROM ({pairs(select, select.top_p)}) ANTI JOIN mined USING (image_id)
        LEFT JOIN (SELECT class_id, count(*) AS num FROM mined GROUP BY 1) USING (class_id)
        WHERE coalesce(num, 0) < {select.min_per_class}""")
    while True:
        tables.execute("""
            CREATE OR REPLACE TEMP TABLE asked AS SELECT image_id, class_id, score FROM wanted
            QUALIFY row_number() OVER (PARTITION BY class_id ORDER BY score DESC, image_id) <= missing""")
        refused = tables.execute("""
            DELETE FROM wanted WHERE (image_id, class_id) IN (
                SELECT (image_id, class_id) FROM asked
                QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY score DESC, class_id) > 1)""").fetchone()
        if not refused or not refused[0]:
            break
    tables.execute("INSERT INTO mined SELECT image_id, class_id, score, true FROM asked")


def _num_places(select: SelectConfig) -> int:
    return select.top_p if select.assignment == "top_p" else 1


def _largest_cut(sizes: list[int], total: int) -> int:
    """The largest k for which the sum of min(size, k) is at most ``total``; the largest size where all fit."""
    low, high = 0, max(sizes, default=1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(n, middle) for n in sizes) <= total else (low, middle - 1)
    return _at_least_one(low, total)


def _last_rank(num_by_rank: list[tuple[int, int]], total: int, deepest: int) -> int:
    """The largest k for which the images of rank k or better are at most ``total``."""
    found = 0
    for rank, num in num_by_rank:
        found += num
        if found > total:
            return _at_least_one(rank - 1, total)
    return deepest


def _at_least_one(per_class: int, total: int) -> int:
    if per_class < 1:
        raise UserError(f"select.target_total: {total} is less than one image of each class; raise it")
    return per_class
