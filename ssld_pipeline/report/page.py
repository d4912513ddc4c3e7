"""The report: a workspace's tables and training metrics in, one self-contained HTML page out."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from ssld_pipeline.queries.status import verdict_counts
from ssld_pipeline.report import curves, difference, figures, formats, mined, overlay, pairs, svg
from ssld_pipeline.report.canaries import canary_section
from ssld_pipeline.report.classes import class_section
from ssld_pipeline.report.comparison import compare
from ssld_pipeline.report.headline import headline_models
from ssld_pipeline.report.pictures import MAX_BYTES, Address, Album, Read
from ssld_pipeline.report.waterfall import waterfall

if TYPE_CHECKING:
    import duckdb

    from ssld_pipeline.config.dedupe import DedupeConfig
    from ssld_pipeline.queries.trainings import Training

MAX_PAGE_BYTES = 20_000_000
MAX_PAIRS = 500
MINED_EACH = 6
_PAIRS_PER_PAGE = 24
_BYTES_WITHOUT_PICTURES = 1_000_000  # charts, tables and rejects, which are bounded in number


def render(
    tables: duckdb.DuckDBPyConnection,
    trainings: Sequence[Training],
    *,
    title: str,
    classes: Sequence[str],
    stages: Sequence[Mapping[str, Any]] = (),
    licence: str | None = None,
    facts: Mapping[str, str] | None = None,
    lists: Sequence[Mapping[str, Any]] = (),
    canaries: Mapping[str, Any] | None = None,
    missed: Sequence[Address] = (),
    read: Read | None = None,
    dedupe: DedupeConfig | None = None,
    max_pairs: int = MAX_PAIRS,
    max_bytes: int = MAX_PAGE_BYTES,
) -> str:
    """The page as HTML; it asks for nothing outside itself.

    ``tables``: a connection on which every table of ``contracts.TABLES`` is a view; any may be empty.
    ``trainings``: what the page compares, in the order in which they run.
    ``classes``: line i names class i. ``stages``: in the order they ran, mappings of ``stage`` and, where known,
    ``parts``, ``rows``, ``rejects``, ``seconds``. ``licence``: of the teacher's weights.
    ``facts``: short lines for under the title, such as the workspace and the models' names.
    ``lists``: what the user's lists do, as ``browse.list_effects`` says.
    ``canaries``: the figures of check_dedupe; ``missed``: where the copies lie that it missed.
    ``read``: (uri, offset, size_bytes) to bytes; raises BadImage or OSError; default: an ``ImageReader``.
    ``dedupe``: the settings with which the shown pairs are matched again; default: the config's defaults.
    ``max_pairs``: duplicate pairs, some 13 kB each. ``max_bytes``: of the page; pairs that do not fit are counted.
    """
    album = Album(read or _reader(), max_bytes - _BYTES_WITHOUT_PICTURES)
    environment = _environment()
    style, script = _asset("style.css") + _asset("gallery.css"), _asset("page.js") + _asset("gallery.js")
    rows = figures.class_rows(tables, classes)
    counts = figures.counts(tables)
    evaluations = figures.evaluations(tables, [one.evaluated_as for one in trainings])
    scales, compared = compare(trainings, evaluations, curves.styles(trainings))
    return str(
        environment.get_template("page.html").render(
            title=title,
            style=style,
            script=script,
            script_digest=_digest(script),
            licence=licence,
            facts=facts or {},
            counts=counts,
            headline=headline_models(evaluations, trainings),
            scales=scales,
            compared=compared,
            evaluations=evaluations,
            stages=stages,
            inputs=figures.inputs(tables),
            waterfall=waterfall(counts),
            curves=curves.charts(trainings),
            legend_of_curves=_legend(trainings),
            runs=[curves.summary(one.name, one.rows) for one in trainings if one.rows],
            **class_section(rows),
            **_soft_labels(tables, len(rows)),
            mined=_mined(tables, rows, album),
            mined_each=MINED_EACH,
            canaries=canary_section(canaries or {}, missed, album),
            **_gallery(tables, album, dedupe, max_pairs, classes),
            max_bytes=max_bytes,
            verdicts=verdict_counts(tables),
            lists=lists,
            rejects=figures.rejects(tables),
        )
    )


def _reader() -> Read:
    from ssld_pipeline.inputs.read import ImageReader

    return ImageReader().read


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ssld_pipeline.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        breakable=formats.breakable,
        num=formats.num,
        millions=formats.millions,
        percent=formats.percent,
        share=formats.share,
        size=formats.size,
        seconds=formats.seconds,
    )
    return environment


def _asset(name: str) -> str:
    return resources.files("ssld_pipeline.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """What the page's content security policy calls its own script by, so that no other can run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _legend(trainings: Sequence[Training]) -> list[dict[str, str]]:
    return [{"name": name, "style": style} for name, style in curves.styles(trainings).items()]


def _soft_labels(tables: duckdb.DuckDBPyConnection, num_classes: int) -> dict[str, Any]:
    ceiling = math.log(max(num_classes, 2))
    drawn = {"top1_prob": ("top-1 probability", 1.0, "c0"), "entropy": ("entropy, nats", ceiling, "c2")}
    charts = []
    for column, (name, high, style) in drawn.items():
        found = figures.distribution(tables, column, high)
        if found:
            chart = svg.histogram(
                found.counts,
                low=found.low,
                high=found.high,
                label=f"Histogram of {name}",
                x=name,
                y="images",
                style=style,
            )
            charts.append({"name": name, "svg": chart, "quartiles": found.quartiles})
    return {"soft_labels": charts, "max_entropy": ceiling}


def _mined(tables: duckdb.DuckDBPyConnection, rows: Sequence[figures.ClassRow], album: Album) -> list[mined.MinedClass]:
    """At most two fifths of the page's bytes, so that pairs get theirs."""
    classes = mined.worth_a_look(rows)
    room = int(0.4 * album.left) // (MAX_BYTES * 4 // 3)
    each = min(MINED_EACH, room // (2 * len(classes))) if classes else 0
    return mined.ends(tables, classes, album, each) if each > 0 else []


def _gallery(
    tables: duckdb.DuckDBPyConnection,
    album: Album,
    dedupe: DedupeConfig | None,
    max_pairs: int,
    classes: Sequence[str],
) -> dict[str, Any]:
    from ssld_pipeline.config.dedupe import DedupeConfig

    return {
        "gallery": pairs.gallery(tables, album, dedupe or DedupeConfig(), max_pairs, classes),
        "page_size": _PAIRS_PER_PAGE,
        "view_box": overlay.VIEW_BOX,
        "full_heat": difference.FULL_HEAT,
    }
