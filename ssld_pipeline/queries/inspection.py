"""What a table holds, seen from outside: its facts, a class of it, an image in all of them; answers in a second or two.

Of 14 million rows a few columns are read, and of an image the parts that its name leads to.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ssld_pipeline.contracts import TABLES
from ssld_pipeline.errors import UserError
from ssld_pipeline.sql_text import literals
from ssld_pipeline.store.part import Part

if TYPE_CHECKING:
    import duckdb

    from ssld_pipeline.queries.class_list import ClassList
    from ssld_pipeline.store.workspace import Workspace

_NUM_EXAMPLES = 10
_EACH = 10
_EACH_SIDE = 5
_BINS_PER_NAT = 20
_MOST_SETTINGS = 5


def summary(workspace: Workspace, name: str) -> dict[str, Any]:
    """What the table is, its columns with meanings, its parts, and first rows; of ``soft_labels`` also who made it."""
    store = workspace.tables[known(name)]
    parts = store.parts()
    found = {
        **TABLES[name].published(),
        "parts": len(parts),
        "rows": sum(p.num_rows for p in parts.values()),
        "bytes": sum(p.size_bytes for p in parts.values()),
        "version": store.version(),
        "examples": _first_rows(workspace, name, parts.values()),
    }
    return {**found, "teachers": _teachers(workspace, parts.values())} if name == "soft_labels" else found


def _first_rows(workspace: Workspace, name: str, parts: Iterable[Part]) -> list[dict[str, Any]]:
    filled = sorted((p for p in parts if p.num_rows), key=lambda p: p.unit)
    with workspace.connect(name, only=filled[:1]) as tables:
        return _rows(tables, f'SELECT * FROM "{name}" LIMIT {_NUM_EXAMPLES}')


def _teachers(workspace: Workspace, parts: Iterable[Part]) -> list[dict[str, Any]]:
    """What made the labels: one row per settings that parts were made with, most parts first; more than one while a run
    is under way. ``weights``: digest of the weights file, or of what fit_teacher made."""
    by_settings: dict[str, list[Part]] = {}
    for part in parts:
        by_settings.setdefault(part.fingerprint.settings, []).append(part)
    most = sorted(by_settings.values(), key=len, reverse=True)[:_MOST_SETTINGS]
    return [_teacher(workspace.tables["soft_labels"].settings_of(own[0]), own) for own in most]


def _teacher(settings: dict[str, Any], parts: list[Part]) -> dict[str, Any]:
    config, fitted = settings.get("config", {}), settings.get("artifacts", {}).get("fit_teacher")
    return {
        "model": config.get("model"),
        "weights": fitted or settings.get("weights", {}).get("teacher"),
        "fitted": fitted is not None,
        "image_size": config.get("image_size"),
        "crop_pct": config.get("crop_pct"),
        "num_kept": config.get("num_kept"),
        "label_version": settings.get("version"),
        "parts": len(parts),
        "rows": sum(p.num_rows for p in parts),
    }


def distributions(workspace: Workspace, classes: ClassList) -> dict[str, Any]:
    """Of view 0, one row an image: ``classes`` (class_id, class, images), largest first, also those without an image
    where the class list is known; ``entropy`` (low, high, images), bins of equal width in nats."""
    of_class: Counter[int] = Counter()
    of_entropy: Counter[int] = Counter()
    query = f"""SELECT top1_class, CASE WHEN isfinite(entropy) THEN floor(entropy * {_BINS_PER_NAT})::INTEGER END,
                       count(*) FROM soft_labels WHERE "view" = 0 GROUP BY ALL"""
    with workspace.connect("soft_labels") as tables:
        for class_id, fine, images in tables.execute(query).fetchall():
            of_class[class_id] += images
            of_entropy.update({} if fine is None else {max(0, fine): images})
    ids = sorted({*of_class, *range(len(classes.names))}, key=lambda c: (-of_class[c], c))
    rows = [{"class_id": c, "class": classes.name(c), "images": of_class[c]} for c in ids]
    return {"classes": rows, "entropy": _bins(of_entropy)}


def _bins(counts: Mapping[int, int]) -> list[dict[str, Any]]:
    """Some twenty bins of fine ones."""
    if not counts:
        return []
    size = math.ceil((max(counts) + 1) / 20)
    width, coarse = size / _BINS_PER_NAT, [0] * (max(counts) // size + 1)
    for fine, images in counts.items():
        coarse[fine // size] += images
    return [{"low": k * width, "high": (k + 1) * width, "images": images} for k, images in enumerate(coarse)]


def rows_of_class(workspace: Workspace, name: str, class_id: int, classes: ClassList) -> list[dict[str, Any]]:
    """Images of a class, each with its ``place``: best, border (the last that select took, the first that it left, by
    the cut of the manifest) and worst; of the catalog the first and the last.

    UserError for a table that has no class.
    """
    if known(name) == "soft_labels":
        return _labelled(workspace, class_id, classes)
    if name == "manifest":
        mined = _ends(workspace, name, f"role = 'pool' AND class_id = {class_id}", "rank, image_id", ("best", "border"))
        return mined or _ends(workspace, name, f"class_id = {class_id}", "image_id", ("first", "last"))
    if name == "catalog":
        return _ends(workspace, name, f"class_id = {class_id}", "image_id", ("first", "last"))
    raise UserError(
        f"inspect {name} --class: the table has no class; tables that have one: soft_labels, manifest, catalog"
    )


def _labelled(workspace: Workspace, class_id: int, classes: ClassList) -> list[dict[str, Any]]:
    """The images whose most probable class it is; one that stands in several places has the first."""
    own = f'"view" = 0 AND top1_class = {class_id}'
    with workspace.connect("soft_labels", "manifest") as tables:
        # Without image_id, whose strings take most of the time of 14 million rows.
        tables.execute(f"CREATE TEMP TABLE members AS SELECT top1_prob, part FROM soft_labels WHERE {own}")
        looks = _looks(tables, class_id)
        parts, near = _parts_and_span(tables, looks)
        few = (part for part in workspace.tables["soft_labels"].parts().values() if part.name in parts)
        workspace.add_view(tables, "soft_labels", view="few", only=few)
        columns = "image_id, top1_prob, part, entropy, class_ids, probs"
        tables.execute(f"CREATE TEMP TABLE near AS SELECT {columns} FROM few WHERE {own} AND ({near})")
        places = _places(tables, looks)
        ids = f"image_id IN ({literals(places) or 'NULL'})"
        found = _rows(
            tables,
            f"""SELECT near.*, m.class_id AS mined FROM near
                LEFT JOIN (SELECT image_id, class_id FROM manifest WHERE {ids}) m USING (image_id)
                WHERE {ids} ORDER BY top1_prob DESC, image_id""",
        )
    return [{"place": places[row["image_id"]], **_in_words(row, classes)} for row in found]


class _Look(NamedTuple):
    """The first ``num_images`` of the members that are ``where``; of equally probable ones those of the first parts."""

    place: str
    where: str
    is_best_first: bool
    num_images: int

    @property
    def order(self) -> str:
        return "top1_prob DESC, part" if self.is_best_first else "top1_prob, part DESC"


def _looks(tables: duckdb.DuckDBPyConnection, class_id: int) -> list[_Look]:
    """The border lies at the lowest score among the mined images of the class; there is none without any."""
    query = f"SELECT min(score) FROM manifest WHERE role = 'pool' AND class_id = {class_id}"
    (cut,) = tables.execute(query).fetchall()[0]
    border = [
        _Look("border", f"top1_prob >= {cut!r}::FLOAT", False, _EACH_SIDE),
        _Look("border", f"top1_prob < {cut!r}::FLOAT", True, _EACH_SIDE),
    ]
    ends = _Look("best", "true", True, _EACH), _Look("worst", "true", False, _EACH)
    return [ends[0], *(border if cut is not None else ()), ends[1]]


def _parts_and_span(tables: duckdb.DuckDBPyConnection, looks: Iterable[_Look]) -> tuple[set[str], str]:
    """The names of the parts that hold the images of the looks, and a condition that few others meet."""
    parts, spans = set(), ["false"]
    for look in looks:
        query = f"SELECT part, top1_prob FROM members WHERE {look.where} ORDER BY {look.order} LIMIT {look.num_images}"
        if found := tables.execute(query).fetchall():
            parts |= {part for part, _ in found}
            spans.append(f"{look.where} AND top1_prob {'>=' if look.is_best_first else '<='} {found[-1][1]!r}::FLOAT")
    return parts, " OR ".join(spans)


def _places(tables: duckdb.DuckDBPyConnection, looks: Iterable[_Look]) -> dict[str, str]:
    """image_id -> place."""
    places: dict[str, str] = {}
    for look in looks:
        query = f"SELECT image_id FROM near WHERE {look.where} ORDER BY {look.order}, image_id LIMIT {look.num_images}"
        for (image_id,) in tables.execute(query).fetchall():
            places.setdefault(image_id, look.place)
    return places


def _in_words(row: dict[str, Any], classes: ClassList) -> dict[str, Any]:
    """``mined``: the class that select took the image for, null if none; ``says``: the teacher's first guesses."""
    likely = zip(row["class_ids"][:3], row["probs"][:3], strict=True)
    says = ", ".join(f"{classes.name(class_id)} {prob:.2f}" for class_id, prob in likely)
    mined = None if row["mined"] is None else classes.name(row["mined"])
    return {
        "image_id": row["image_id"],
        "top1_prob": row["top1_prob"],
        "entropy": row["entropy"],
        "mined": mined,
        "says": says,
        "class_ids": row["class_ids"],
        "probs": row["probs"],
    }


def _ends(workspace: Workspace, name: str, where: str, order: str, places: tuple[str, str]) -> list[dict[str, Any]]:
    with workspace.connect(name) as tables:
        return _rows(
            tables,
            f"""SELECT CASE WHEN number <= {_EACH} THEN '{places[0]}' ELSE '{places[1]}' END AS place,
                       * EXCLUDE (number, total)
                FROM (SELECT *, row_number() OVER (ORDER BY {order}) AS number, count(*) OVER () AS total
                      FROM "{name}" WHERE {where})
                WHERE number <= {_EACH} OR number > total - {_EACH} ORDER BY number""",
        )


def rows_of_image(workspace: Workspace, image_id: str) -> dict[str, list[dict[str, Any]]]:
    """Every row that speaks of the image, by table. UserError when none does."""
    found = {name: rows for name in TABLES if (rows := _speaking_of(workspace, name, image_id))}
    if not found:
        raise UserError(
            f"no table of {workspace.uri} speaks of image {image_id!r}; "
            "an image_id looks like pool/pool-000.tar/name.jpg"
        )
    return found


def _speaking_of(workspace: Workspace, name: str, image_id: str) -> list[dict[str, Any]]:
    columns = [c.name for c in TABLES[name].columns if c.name in ("image_id", "protected_id", "other_id")]
    parts = list(workspace.tables[name].parts().values())
    if columns == ["image_id"]:
        parts = [part for part in parts if _input(part.name) in (part.name, _input(image_id))]
    if not columns or not parts:
        return []
    where = " OR ".join(f"{column} = {literals([image_id])}" for column in columns)
    with workspace.connect(name, only=_likely(parts, image_id)) as tables:
        order = ", ".join(f'"{column}"' for column in TABLES[name].key)
        return _rows(tables, f'SELECT * FROM "{name}" WHERE {where} ORDER BY {order}')


def _likely(parts: Sequence[Part], image_id: str) -> Sequence[Part]:
    """The parts that the image's name leads to; all where it leads to none, as in a list of files or a flat folder.

    A part of one shard is called <input>/<shard>#<number>, an image <input>/<shard>/<name>; a reject may be a shard.
    """
    shards = {part: re.sub(r"(#\d+)+$", "", part.name) for part in parts if "/" in part.name}
    found = [part for part, shard in shards.items() if f"{image_id}/".startswith(f"{shard}/")]
    return [*found, *(part for part in parts if part not in shards)] if found else parts


def _input(name: str) -> str:
    return name.split("/", 1)[0]


def labels_of(rows: Iterable[dict[str, Any]], classes: ClassList) -> list[dict[str, Any]]:
    """The classes of an image's ``soft_labels`` rows by name: view, class_id, class, prob; class null for the rest."""
    found: list[dict[str, Any]] = []
    for row in rows:
        kept = zip(row["class_ids"], row["probs"], strict=True)
        found += [{"view": row["view"], "class_id": c, "class": classes.name(c), "prob": p} for c, p in kept]
        found.append({"view": row["view"], "class_id": None, "class": None, "prob": row["tail_prob"]})
    return found


def known(name: str, trainings: Sequence[str] = ()) -> str:
    """UserError for a name that is no table. ``trainings``: the names of what may be inspected without a class or an
    image."""
    if name in TABLES:
        return name
    if name in trainings:
        raise UserError(f"inspect {name}: it is a training; --class and --image are of tables")
    more = f"; trainings are {', '.join(trainings)}" if trainings else ""
    raise UserError(f"inspect {name}: no such table; tables are {', '.join(TABLES)}{more}")


def _rows(tables: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tables.sql(query).to_arrow_table().to_pylist()
    return found
