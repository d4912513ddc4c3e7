"""What groups of near-identical pool images mean for ``duplicates``, as DuckDB queries over ``repeats``.

What is near-identical to an image that copies a protected one, or is of one group with it, goes too: it would be the
leak in another guise. Of what then remains of a group one image stays: one of the allow list if there is one, otherwise
the best; of the others, those on the allow list stay as well. Where the best is denied, the next takes its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssld_pipeline.contracts import REMOVED
from ssld_pipeline.sql_text import literals

if TYPE_CHECKING:
    import duckdb

_REMOVED = literals(REMOVED)
_EVIDENCE = "method, score, num_blocks, coverage"

# ``members``: images of groups, the best of a group with rank 0; ``leaks``: images that copy a protected one, with it.
_PREPARE = """
CREATE OR REPLACE TEMP TABLE members AS
    SELECT image_id, other_id AS centre, rank, {evidence}, homography FROM repeats WHERE rank IS NOT NULL
    UNION ALL SELECT DISTINCT other_id, other_id, 0, NULL, NULL, NULL, NULL, NULL FROM repeats WHERE rank IS NOT NULL;
CREATE OR REPLACE TEMP TABLE leaks AS {leaks}
"""

# Nearest first: compared with the leak itself, equal bytes to such an image, of one group with the leak.
_COPIES_OF_COPIES = """
WITH near AS (
    SELECT image_id, other_id, {evidence} FROM repeats
    UNION ALL SELECT other_id AS image_id, image_id AS other_id, {evidence} FROM repeats
),
direct AS (
    SELECT near.image_id, protected_id, {evidence}, 1 AS distance
    FROM near JOIN (SELECT image_id AS other_id, protected_id FROM leaks) USING (other_id)
),
twins AS (
    SELECT r.image_id, protected_id, d.* EXCLUDE (image_id, protected_id, distance), 2 AS distance
    FROM repeats r JOIN direct d ON d.image_id = r.other_id WHERE r.method = 'exact'
),
grouped AS (
    SELECT m.image_id, protected_id, coalesce(m.method, l.method) AS method, coalesce(m.score, l.score) AS score,
           coalesce(m.num_blocks, l.num_blocks) AS num_blocks, coalesce(m.coverage, l.coverage) AS coverage,
           3 AS distance
    FROM members m JOIN (
        SELECT centre, protected_id, {evidence} FROM members JOIN leaks USING (image_id)
        QUALIFY row_number() OVER (PARTITION BY centre ORDER BY rank, protected_id) = 1
    ) l USING (centre)
)
SELECT image_id, protected_id, {evidence} FROM
    (SELECT * FROM direct UNION ALL SELECT * FROM twins UNION ALL SELECT * FROM grouped)
    ANTI JOIN leaks USING (image_id)
    ANTI JOIN (SELECT image_id FROM decided WHERE verdict IN ({removed})) USING (image_id)
QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY distance, score DESC, protected_id) = 1
"""

# Two images of a group were both compared with its best alone: the weaker evidence counts.
_REPEATS = """
WITH remaining AS (
    SELECT *, image_id IN ({allowed}) AS is_allowed
    FROM members ANTI JOIN (SELECT image_id FROM decided WHERE verdict IN ({removed})) USING (image_id)
),
kept AS (
    SELECT centre, image_id AS protected_id, {evidence} FROM remaining
    QUALIFY row_number() OVER (PARTITION BY centre ORDER BY is_allowed DESC, rank) = 1
)
SELECT image_id, protected_id, least(r.score, k.score) AS score, least(r.num_blocks, k.num_blocks) AS num_blocks,
       CASE WHEN coalesce(r.method, 'exact') = coalesce(k.method, 'exact') THEN coalesce(r.method, k.method)
            ELSE 'perceptual' END AS method,
       least(r.coverage, k.coverage) AS coverage, CASE WHEN protected_id = centre THEN homography END AS homography,
       is_allowed
FROM remaining r JOIN kept k USING (centre) WHERE image_id <> protected_id
"""


def add_repeats(tables: duckdb.DuckDBPyConnection, leaks: str, allowed: str) -> None:
    """Adds to the table ``decided`` (``duplicates`` without is_duplicate) what the view ``repeats`` adds to it.

    ``leaks``: query for image_id and protected_id of the pool images that copy a protected one, each once. ``allowed``:
    query for the image_ids on the allow list.
    """
    names = {"evidence": _EVIDENCE, "removed": _REMOVED, "leaks": leaks, "allowed": allowed}
    tables.execute(_PREPARE.format(**names))
    _add(
        tables,
        f"SELECT *, image_id IN ({allowed}) AS is_allowed FROM ({_COPIES_OF_COPIES.format(**names)})",
        "copy_of_copy",
    )
    _add(tables, _REPEATS.format(**names), "repeat")


def _add(tables: duckdb.DuckDBPyConnection, query: str, verdict: str) -> None:
    """A pair that was compared and found to be no copy keeps its evidence and takes the verdict."""
    tables.execute(f"CREATE OR REPLACE TEMP TABLE added AS {query}")
    says = f"CASE WHEN added.is_allowed THEN 'allowed' ELSE '{verdict}' END"
    tables.execute(f"""
        UPDATE decided SET verdict = {says} FROM added
        WHERE decided.image_id = added.image_id AND decided.protected_id = added.protected_id;
        INSERT INTO decided BY NAME
        SELECT added.* EXCLUDE (is_allowed), 'pool' AS role, 0 AS num_matches, 0 AS num_inliers, false AS flipped,
               {says} AS verdict
        FROM added ANTI JOIN decided USING (image_id, protected_id)""")
