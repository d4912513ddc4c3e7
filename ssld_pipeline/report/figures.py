"""The page's figures, each a query over the workspace's tables; DuckDB does the counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import REJECT_REASONS, ROLES
from ssld_pipeline.kernels.intervals import wilson

if TYPE_CHECKING:
    import duckdb

BINS = 25


@dataclass(frozen=True)
class Counts:
    """Images; ``pairs`` are proposed pairs, ``duplicates`` the pool images that are removed, ``repeats`` those of them
    that repeat an image of the pool, ``rejects_in_pool`` others that a stage could not use. ``left_out``: labelled
    images that no network is trained on."""

    pool: int
    labeled: int
    protected: int
    pairs: int
    duplicates: int
    left_out: int
    repeats: int
    rejects: int
    rejects_in_pool: int
    labelled: int
    mined: int
    manifest: int


@dataclass(frozen=True)
class Evaluation:
    """``low`` and ``high`` bound top-1 with 95 % confidence (Wilson, 1927); shares in [0,1]. ``image_size`` (pixels)
    and ``weights`` are None in tables of earlier versions."""

    model: str
    input: str
    image_size: int | None
    weights: str | None
    num_images: int
    top1: float
    top5: float
    num_parameters: int
    low: float
    high: float


@dataclass(frozen=True)
class ClassRow:
    """``cut`` is the lowest score among the class's mined images; None without any."""

    class_id: int
    name: str
    labeled: int
    mined: int
    cut: float | None


@dataclass(frozen=True)
class Distribution:
    """``counts`` of BINS bins of equal width from ``low`` to ``high``, and the quartiles."""

    counts: tuple[int, ...]
    low: float
    high: float
    quartiles: tuple[float, float, float]


def rows(tables: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The result of a query, one mapping per row."""
    result = tables.execute(sql, parameters)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def counts(tables: duckdb.DuckDBPyConnection) -> Counts:
    (row,) = rows(
        tables,
        """
        SELECT (SELECT count(*) FROM catalog WHERE role = 'pool') AS pool,
               (SELECT count(*) FROM catalog WHERE role = 'labeled') AS labeled,
               (SELECT count(*) FROM catalog WHERE role = 'protected') AS protected,
               (SELECT count(protected_id) FROM duplicates) AS pairs,
               (SELECT count(DISTINCT image_id) FROM duplicates
                    WHERE is_duplicate AND coalesce(role, 'pool') = 'pool') AS duplicates,
               (SELECT count(DISTINCT image_id) FROM duplicates
                    WHERE is_duplicate AND role <> 'pool') AS left_out,
               (SELECT count(DISTINCT image_id) FROM duplicates WHERE verdict = 'repeat') AS repeats,
               (SELECT count(*) FROM rejects) AS rejects,
               (SELECT count(DISTINCT image_id) FROM rejects SEMI JOIN catalog c
                    ON rejects.image_id = c.image_id AND c.role = 'pool'
                    WHERE stage <> 'look'  -- an image that it alone could not read is labelled
                      AND image_id NOT IN (SELECT image_id FROM duplicates WHERE is_duplicate)) AS rejects_in_pool,
               (SELECT count(*) FROM soft_labels WHERE "view" = 0) AS labelled,
               (SELECT count(*) FROM manifest WHERE role = 'pool') AS mined,
               (SELECT count(*) FROM manifest) AS manifest
    """,
    )
    return Counts(**row)


def inputs(tables: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Per input: input, role, images, labelled (with a class), classes, files (that hold them), bytes."""
    return rows(
        tables,
        """
        SELECT split_part(image_id, '/', 1) AS input, role, count(*) AS images, count(class_id) AS labelled,
               count(DISTINCT class_id) AS classes, count(DISTINCT uri) AS files, sum(size_bytes) AS bytes
        FROM catalog GROUP BY input, role ORDER BY list_position(?, role), input
    """,
        [list(ROLES)],
    )


def evaluations(tables: duckdb.DuckDBPyConnection, models: Sequence[str] = ()) -> list[Evaluation]:
    """The teacher's, those of ``models`` in this order, then those of others."""
    found = rows(
        tables,
        "SELECT model, input, image_size, weights, num_images, top1, top5, num_parameters FROM evaluations",
    )
    order = {model: place for place, model in enumerate(dict.fromkeys(["teacher", *models]))}
    found.sort(
        key=lambda r: (
            *(order.get(r["model"], len(order)), r["model"], r["input"]),
            *(r["image_size"] or 0, r["weights"] or ""),
        )
    )
    return [Evaluation(**r, low=low, high=high) for r in found for low, high in [wilson(r["top1"], r["num_images"])]]


def class_rows(tables: duckdb.DuckDBPyConnection, classes: Sequence[str]) -> list[ClassRow]:
    """One row per class of the run, in its order, with zeros where the manifest has nothing of it."""
    found = {
        r["class_id"]: r
        for r in rows(
            tables,
            """
        SELECT class_id, count(*) FILTER (role = 'labeled') AS labeled, count(*) FILTER (role = 'pool') AS mined,
               min(score) FILTER (role = 'pool') AS cut
        FROM manifest GROUP BY class_id
    """,
        )
    }
    ids = sorted({*range(len(classes)), *found})
    empty = {"labeled": 0, "mined": 0, "cut": None}
    return [ClassRow(**{**empty, **found.get(i, {}), "class_id": i, "name": class_name(classes, i)}) for i in ids]


def class_name(classes: Sequence[str], class_id: int | None) -> str:
    if class_id is None:
        return "no class"
    return classes[class_id] if 0 <= class_id < len(classes) else f"class {class_id}"


def distribution(tables: duckdb.DuckDBPyConnection, column: str, high: float) -> Distribution | None:
    """Of ``column`` of the evaluation view's soft labels, from 0 to ``high``; None without a finite value."""
    source = f'FROM soft_labels WHERE "view" = 0 AND isfinite({column})'
    (quartiles,) = rows(tables, f"SELECT quantile_cont({column}, [0.25, 0.5, 0.75]) AS q {source}")
    if quartiles["q"] is None:
        return None
    bins = rows(
        tables,
        f"""
        SELECT greatest(0, least(floor({column} / $1 * $2), $2 - 1))::INTEGER AS bin, count(*) AS num {source}
        GROUP BY bin
    """,
        [high, BINS],
    )
    heights = {r["bin"]: r["num"] for r in bins}
    return Distribution(tuple(heights.get(i, 0) for i in range(BINS)), 0.0, high, tuple(quartiles["q"]))


def rejects(tables: duckdb.DuckDBPyConnection, num_examples: int = 3) -> list[dict[str, Any]]:
    """Per stage and reason: num, meaning and up to ``num_examples`` (image_id, detail), most frequent first."""
    found = rows(
        tables,
        """
        SELECT stage, reason, image_id, left(detail, 200) AS detail, count(*) OVER (PARTITION BY stage, reason) AS num
        FROM rejects
        QUALIFY row_number() OVER (PARTITION BY stage, reason ORDER BY image_id) <= ?
        ORDER BY num DESC, stage, reason, image_id
    """,
        [num_examples],
    )
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for r in found:
        new = {
            "stage": r["stage"],
            "reason": r["reason"],
            "num": r["num"],
            "examples": [],
            "meaning": REJECT_REASONS.get(r["reason"], ""),
        }
        groups.setdefault((r["stage"], r["reason"]), new)["examples"].append((r["image_id"], r["detail"]))
    return list(groups.values())
