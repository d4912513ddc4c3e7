"""What a stage is: a value. The runner reads these values.

Four shapes of work occur in the pipeline; ``runner/shapes`` knows how each is divided, planned and done:

* ``PartStage``      rows of one input part in, rows of one output part out; any number of workers.
* ``ArtifactStage``  whole tables in, a folder of files out (the index of protected images, the teacher's check).
* ``QueryStage``     tables in, a table out, by DuckDB in the driver.
* ``TrainStage``     a training job in, a model folder out; one or many processes.

A stage's ``settings`` are the config fields that can change a value: they, ``version``, and the digests of what is
read make its fingerprint. Raise ``version`` by hand when the same settings come to mean another result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssld_pipeline.contracts import Reject as Reject

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.training.job import TrainJob
    from ssld_pipeline.training.predictions import MapAhead

Json = Any


@dataclass(frozen=True)
class PartResult:
    """``rows`` has the output table's columns except ``part``, in any order of rows."""

    rows: pa.Table
    rejects: list[Reject] = field(default_factory=list)


@dataclass(frozen=True)
class Setup:
    """What a worker is given once, before its first part.

    ``artifacts``: local folder of each artifact the stage reads, by the name of the stage that made it.
    ``num_threads``: threads the worker may keep busy. ``device``: "cpu" or "cuda". ``map_ahead``: who decodes images
    for a network; null: threads of the worker.
    """

    config: RunConfig
    classes: tuple[str, ...]
    artifacts: Mapping[str, Path]
    num_threads: int = 1
    device: str = "cpu"
    map_ahead: MapAhead | None = None


@dataclass(frozen=True)
class TrainData:
    """What a training job may read, as URIs of Parquet parts, and how many images they hold.

    ``manifest``, ``soft_labels``: these tables. ``labeled``, ``validation``, ``teacher``: catalog parts of the roles
    labeled, protected and teacher; ``teacher`` equals ``labeled`` where the teacher has no data of its own.
    ``left_out``: image_ids that no training reads, and no number counts: copies of protected images.
    """

    manifest: tuple[str, ...]
    labeled: tuple[str, ...]
    validation: tuple[str, ...]
    teacher: tuple[str, ...]
    num_labeled: int
    num_mined: int
    soft_labels: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Catalog parts by name of the input."""
    num_of_input: Mapping[str, int] = field(default_factory=dict)
    """Images by name of the input."""


def _always(config: RunConfig) -> bool:
    return True


def _once(config: RunConfig) -> int:
    return 1


def _none(config: RunConfig) -> tuple[str, ...]:
    return ()


def _no_figures(rows: pa.Table) -> dict[str, Json]:
    return {}


def _never_covers(committed: Json, wanted: Json) -> bool:
    return False


def _no_weights(config: RunConfig) -> Mapping[str, str | None]:
    return {}


def _is_present(
    config: RunConfig, num_classes: int, committed: Mapping[str, Json], figures: Mapping[str, Json]
) -> dict[str, Json] | None:
    return None


def _all_wanted(committed: Json, wanted: Json, config: RunConfig) -> Json:
    return wanted


def _no_reasons(config: RunConfig) -> Mapping[str, str]:
    return {}


def _no_side_files(config: RunConfig) -> Mapping[str, tuple[str, ...]]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What all four shapes have.

    ``table``: the table it writes; None: it writes a folder. ``per``: what one unit of work is: a shard of an input, a
    part of the catalog, a whole input, or all at once.

    What it depends on: ``reads`` (tables; ``also_reads``: those that the config adds) and ``artifacts``, both of stages
    that are enabled; ``networks``: which it runs ("teacher": with all files of that config section); ``weights``: other
    weights files, by what they are for; ``uses_classes`` (the class list), ``roles``: the roles, or names, of the
    inputs whose catalog rows it reads, and ``side_files``: files that the config names, such as lists of image_ids, by
    the setting's dotted name. A setting that names some has the type ``settings.SideFiles``, which makes its paths
    absolute; ``settings`` leaves them out. The runner puts the digests of their bytes into the fingerprint, so that
    another path is no change and another line is one; the stage reads them itself (``inputs.id_list.read_ids``),
    wherever it runs.

    ``checks``: stages that must pass before it, even where it is run by itself. ``is_guarded``: it reads what networks
    are trained on, without the images that copy protected ones (a query has them as the view ``left_out``).

    ``covers``, given (committed settings, wanted settings) that differ: whether what the former made serves as well.
    ``needed``, given these two and the config: the wanted settings without what the committed ones lack and nothing in
    the config asks for. They replace the wanted ones in ``covers``, and as the recorded settings of a part that is made
    of rows that are kept. ``reasons``: by setting, why a change of it makes the stage run again, for people, in place
    of `setting: old -> new`; an empty text drops the line.
    """

    name: str
    version: int
    reads: tuple[str, ...]
    settings: Callable[[RunConfig], dict[str, Json]]
    table: str | None = None
    per: Literal["shard", "part", "input", "all"] = "all"
    also_reads: Callable[[RunConfig], tuple[str, ...]] = _none
    artifacts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    weights: Callable[[RunConfig], Mapping[str, str | None]] = _no_weights
    uses_classes: bool = False
    roles: Callable[[RunConfig], tuple[str, ...]] = _none
    side_files: Callable[[RunConfig], Mapping[str, tuple[str, ...]]] = _no_side_files
    enabled: Callable[[RunConfig], bool] = _always
    checks: tuple[str, ...] = ()
    is_guarded: bool = False
    covers: Callable[[Json, Json], bool] = _never_covers
    needed: Callable[[Json, Json, RunConfig], Json] = _all_wanted
    reasons: Callable[[RunConfig], Mapping[str, str]] = _no_reasons

    def tables_read(self, config: RunConfig) -> tuple[str, ...]:
        return (*self.reads, *self.also_reads(config))


@dataclass(frozen=True, kw_only=True)
class PartStage(Stage):
    """``open`` loads what all parts share (an index, a network) and returns the pure function over one part.

    ``section``: that of the config whose ``max_reject_share`` a part must keep to be committed; None: no limit.
    ``passes``: how often a unit goes through its rows; a worker is given time accordingly.

    ``keep`` spares work where settings differ or images come and go: given a stale part's rows, the payload of its
    fingerprint and the wanted one, it returns the rows that hold; the function over a part is then given them as a
    second argument, and returns them with what was missing. It is asked where the payloads are equal but for ``config``
    and the entries ``keeps_over``.
    """

    table: str = field()
    open: Callable[[Setup], Callable[..., PartResult]]
    per: Literal["shard", "part", "input", "all"] = "part"
    section: str | None = None
    passes: Callable[[RunConfig], int] = _once
    keep: Callable[[pa.Table, Mapping[str, Json], Mapping[str, Json]], pa.Table] | None = None
    keeps_over: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ArtifactStage(Stage):
    """``build`` fills an empty folder and returns figures for people; ``rows`` are the catalog rows it reads."""

    build: Callable[[Setup, pa.Table, Path], tuple[dict[str, Json], list[Reject]]]


@dataclass(frozen=True, kw_only=True)
class QueryStage(Stage):
    """``query`` returns the rows of ``table`` from a connection on which the tables of ``reads`` are views.

    ``figures`` tells people about these rows; columns that ``table`` does not have are there for it alone.
    """

    table: str = field()
    query: Callable[[duckdb.DuckDBPyConnection, RunConfig], pa.Table]
    figures: Callable[[pa.Table], dict[str, Json]] = _no_figures


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage):
    """``job`` describes the training completely; the same job runs in one process or in many.

    ``together``: the stages that are trained in one pass with this one, itself included. ``modernise``, given (config,
    number of classes, settings and figures of a committed model): these settings as they would be recorded today; None
    where they are.
    """

    job: Callable[[Setup, TrainData], TrainJob]
    together: tuple[str, ...] = ()
    modernise: Callable[[RunConfig, int, Mapping[str, Json], Mapping[str, Json]], dict[str, Json] | None] = _is_present
