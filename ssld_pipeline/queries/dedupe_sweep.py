"""How many pool images each threshold of dedupe would remove, and the pairs at the border: from the table ``pairs``.

Every count asks ``copies.decision``, the rule of the stage itself, with other thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ssld_pipeline.config.dedupe import DECISION_FIELDS
from ssld_pipeline.copies.decision import Thresholds, is_copy
from ssld_pipeline.errors import UserError
from ssld_pipeline.stages.dedupe import IS_POOL, images_on, is_reported, register_lists, thresholds

if TYPE_CHECKING:
    import duckdb

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.store.workspace import Workspace

_VALUES: dict[str, tuple[float, ...]] = {
    "min_score": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    "min_inliers": (4, 5, 6, 8, 10, 15, 20, 30),
    "min_explained": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 1.0),
    "min_perceptual_score": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    "min_blocks": (8, 16, 24, 32, 48, 64, 96, 128),
    "min_coverage": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
}
_COLUMNS = {
    "min_score": "score",
    "min_inliers": "num_inliers",
    "min_explained": "explained",
    "min_perceptual_score": "score",
    "min_blocks": "num_blocks",
    "min_coverage": "coverage",
}
_NEVER = 10**9
_BITS = 62


@dataclass(frozen=True)
class Sweep:
    """``present``: the thresholds as they are and the images they remove, ``denied`` ones among them. ``grid``: the
    same for all pairs of min_score and min_inliers; ``marginals``: for each threshold alone, the others as they are.
    ``samples``: the pairs nearest to each threshold on both sides, which it alone decides.
    """

    present: dict[str, Any]
    grid: list[dict[str, Any]]
    marginals: list[dict[str, Any]]
    samples: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {"present": self.present, "grid": self.grid, "marginals": self.marginals, "samples": self.samples}


def sweep_dedupe(workspace: Workspace, config: RunConfig, num_samples: int = 3) -> Sweep:
    """Of the pairs found so far, with the config's lists and ``report_only``. UserError where nothing has been looked
    for yet. ``num_samples``: per threshold and side."""
    if workspace.tables["pairs"].version() is None:
        raise UserError(f"dedupe-sweep: {workspace.uri} has no pairs yet; ssld run CONFIG --until find_copies")
    with workspace.connect("catalog", "pairs") as tables:
        return measure(tables, config, num_samples)


def measure(tables: duckdb.DuckDBPyConnection, config: RunConfig, num_samples: int) -> Sweep:
    """The same from the views ``pairs`` and ``catalog``."""
    num_denied, settings = _prepare(tables, config), thresholds(config.dedupe)
    scores, inliers = _around("min_score", settings), _around("min_inliers", settings)
    grid = [{"min_score": s, "min_inliers": i} for s in scores for i in inliers]
    alone = [(name, value) for name in DECISION_FIELDS for value in _around(name, settings)]
    changes = [{}, *grid, *({name: value} for name, value in alone)]
    present, *others = [num_denied + num for num in _count(tables, settings, changes)]
    by_cell, by_value = others[: len(grid)], others[len(grid) :]
    return Sweep(
        {name: getattr(settings, name) for name in DECISION_FIELDS} | {"removed": present, "denied": num_denied},
        [{**cell, "removed": num} for cell, num in zip(grid, by_cell, strict=True)],
        [
            {"threshold": name, "value": value, "removed": num, "change": num - present}
            for (name, value), num in zip(alone, by_value, strict=True)
        ],
        [row for name in DECISION_FIELDS for row in _samples(tables, settings, name, num_samples)],
    )


def _prepare(tables: duckdb.DuckDBPyConnection, config: RunConfig) -> int:
    """Makes the table ``near``: the pairs whose image some threshold that is tried removes. Returns the number of
    denied images, which no threshold keeps."""
    register_lists(tables, config.dedupe)
    present = thresholds(config.dedupe)
    changes: dict[str, Any] = {name: _around(name, present)[0] for name in DECISION_FIELDS}
    tables.execute(f"""
        CREATE TEMP TABLE near AS SELECT image_id, protected_id, method, num_matches, num_inliers, score, num_blocks,
                                         coverage, explained, homography FROM pairs
        WHERE {is_copy(replace(present, **changes))} AND NOT {is_reported(config)} AND {IS_POOL}
          AND image_id NOT IN (SELECT image_id FROM listed WHERE is_known)""")
    return _number(tables, images_on("deny"))


def _number(tables: duckdb.DuckDBPyConnection, query: str) -> int:
    ((found,),) = tables.execute(f"SELECT count(*) FROM ({query})").fetchall()
    return int(found)


def _around(name: str, present: Thresholds) -> Sequence[float]:
    """The values to try, that of the config among them."""
    return sorted({*_VALUES[name], getattr(present, name)})


def _count(tables: duckdb.DuckDBPyConnection, present: Thresholds, changes: Sequence[dict[str, Any]]) -> list[int]:
    """Images that each change of the config would remove, denied ones apart.

    The answers of all rules on a pair are bits of a few integers: an aggregate for each rule takes three times as long.
    """
    rules = [f"{is_copy(replace(present, **change))}::BIGINT" for change in changes]
    parts = [rules[start : start + _BITS] for start in range(0, len(rules), _BITS)]
    words = [" | ".join(f"({rule} << {place})" for place, rule in enumerate(part)) for part in parts]
    of_image = ", ".join(f"bit_or({word}) AS word{i}" for i, word in enumerate(words))
    names = ", ".join(f"word{i}" for i in range(len(words)))
    rows = tables.execute(f"""
        SELECT count(*), {names} FROM (SELECT {of_image} FROM near GROUP BY image_id) GROUP BY {names}""").fetchall()
    places = [divmod(rule, _BITS) for rule in range(len(rules))]
    return [sum(num for num, *found in rows if found[word] >> place & 1) for word, place in places]


def _samples(tables: duckdb.DuckDBPyConnection, present: Thresholds, name: str, limit: int) -> list[dict[str, Any]]:
    """Pairs that this threshold alone decides, nearest first on each side."""
    loosest: dict[str, Any] = {name: _around(name, present)[0]}
    column, without = _COLUMNS[name], is_copy(replace(present, **loosest))
    never: dict[str, Any] = {name: _NEVER}
    anyway = is_copy(replace(present, **never))
    rows: list[dict[str, Any]] = []
    for side, rule, order in (("above", "", "ASC"), ("below", "NOT ", "DESC")):
        query = f"""SELECT * FROM near WHERE {without} AND NOT {anyway} AND {rule}{is_copy(present)}
                    ORDER BY {column} {order}, image_id, protected_id LIMIT {limit}"""
        found = tables.sql(query).to_arrow_table().to_pylist()
        rows += [{"threshold": name, "side": side, **_in_words(row)} for row in found]
    return rows


def _in_words(row: dict[str, Any]) -> dict[str, Any]:
    """The pair without its matrix, but with what the matrix says; the size of neither image is known here."""
    from ssld_pipeline.copies.geometry.transform import matrix, transform

    h = matrix(row.pop("homography"))
    found = None if h is None else transform(h, (1, 1), (1, 1))
    return {**row, "looks": ", ".join(replace(found, coverage=row["coverage"]).words()) if found else ""}
