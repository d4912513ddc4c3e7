"""guard_training: searches the images that networks are trained on for copies of protected images.

A validation image among the labelled images leaks as one in the pool does. The search is that of ``find_copies``, with
the same index; only protected inputs count, since a labelled image is always a copy of itself. It comes first of all
searches: a labelled set that is full of protected images stops the run before the pool is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ssld_pipeline.config.inputs import TRAINED_ON_ROLES
from ssld_pipeline.contracts import PAIRS
from ssld_pipeline.copies.decision import is_copy
from ssld_pipeline.errors import UserError
from ssld_pipeline.rejects import FEW
from ssld_pipeline.stages import find_copies
from ssld_pipeline.stages.dedupe import read_lists, thresholds
from ssld_pipeline.stages.stage import Json, PartResult, PartStage, Setup

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig

_MAX_SHARE = 0.01
_EXAMPLES = 3


def _open(setup: Setup) -> Callable[[pa.Table], PartResult]:
    return find_copies.open_find_copies(setup, setup.config.guards())


def _settings(config: RunConfig) -> dict[str, Json]:
    search = {"version": find_copies.STAGE.version, **find_copies.search_fields(config)}
    return {"search": search, "guards": sorted(config.guards())}


def copies(pairs: pa.Table, config: RunConfig) -> dict[str, str]:
    """image_id -> protected_id of the images to leave out, from ``pairs`` rows of images that are trained on.

    Those of the list dedupe.allow stay, those of dedupe.deny go (with an empty protected_id where they copy nothing);
    nothing goes where dedupe.trained_on is report_only, but for denied ones.
    """
    import duckdb

    lists = read_lists(config.dedupe)
    found: dict[str, str] = {}
    if config.dedupe.trained_on != "report_only" and pairs.num_rows:
        with duckdb.connect() as tables:
            tables.register("pairs", pairs.cast(PAIRS.schema()))
            query = f"""SELECT image_id, arg_max(protected_id, (score, protected_id)) FROM pairs
                        WHERE {is_copy(thresholds(config.dedupe))} GROUP BY 1 ORDER BY 1"""
            found = dict(tables.execute(query).fetchall())
    allowed = set(lists["allow"])
    names = config.inputs_of(TRAINED_ON_ROLES)
    denied = {image_id: "" for image_id in lists["deny"] if image_id.split("/", 1)[0] in names}
    return denied | {image_id: of for image_id, of in found.items() if image_id not in allowed}


def refuse_leaks(found: Mapping[str, str], num_images: Mapping[str, int], config: RunConfig) -> None:
    """UserError where so many images of an input copy protected ones that it is no labelled set of its own: more than
    1 % and more than ten, or one where dedupe.trained_on is refuse. ``num_images``: by input name."""
    if config.dedupe.trained_on == "report_only":
        return
    for name, total in num_images.items():
        own = [(image_id, of) for image_id, of in found.items() if of and image_id.split("/", 1)[0] == name]
        limit = 0 if config.dedupe.trained_on == "refuse" else max(FEW, _MAX_SHARE * total)
        if len(own) > limit:
            examples = ", ".join(f"{image_id} of {of}" for image_id, of in own[:_EXAMPLES])
            raise UserError(
                f"guard_training: {len(own)} of {total} images of the input {name!r} are copies of protected images: "
                f"{examples}. Networks trained on them would know the images that measure them. Take them out of "
                f"{name!r}, or keep some with dedupe.allow; dedupe.trained_on: report_only trains on all of them"
            )


STAGE = PartStage(
    name="guard_training",
    version=1,
    table="pairs",
    reads=("catalog",),
    artifacts=("index_protected",),
    settings=_settings,
    open=_open,
    roles=lambda config: TRAINED_ON_ROLES,
    section="dedupe",
    checks=("check_dedupe",),
)
