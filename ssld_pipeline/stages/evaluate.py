"""evaluate: top-1 and top-5 of every model of the run on every protected input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import EVALUATIONS
from ssld_pipeline.rejects import refuse_gaps
from ssld_pipeline.stages.stage import Json, PartResult, PartStage, Setup
from ssld_pipeline.stages.teacher import teacher_settings, teacher_spec
from ssld_pipeline.stages.trainings import model_spec, network_of, network_settings
from ssld_pipeline.training.job import MODEL_FILE

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.models.predict import Predictor
    from ssld_pipeline.models.spec import ModelSpec

LAST = "last"
"""Column ``weights``: those of the last step."""


def settings(config: RunConfig) -> dict[str, Any]:
    models = {
        name: {"student": network_settings(network_of(config, name)), "view": list(_view_of(config, name))}
        for name in config.nodes
    }
    return {"teacher": teacher_settings(config), "models": models}


def keep(rows: pa.Table, committed: Mapping[str, Json], wanted: Mapping[str, Json]) -> pa.Table:
    """The ``rows`` of models that are still the same, seen the same way: another model costs no one else's pass."""
    import pyarrow as pa
    import pyarrow.compute as pc

    same = [name for name in set(rows["model"].to_pylist()) if _identity(name, committed) == _identity(name, wanted)]
    return rows.filter(pc.is_in(rows["model"], pa.array(same, pa.string())))


def _identity(model: str, payload: Mapping[str, Json]) -> Json:
    """What decides a model's accuracy on given images; a model that is not measured matches nothing."""
    artifacts, config = payload.get("artifacts", {}), payload["config"]
    if model == "teacher":
        return config["teacher"], artifacts.get("fit_teacher")
    return config["models"].get(model), artifacts.get(model), model if model in config["models"] else payload


def open_evaluate(setup: Setup) -> Callable[..., PartResult]:
    """The function from the catalog rows of one input, and rows of models that need not be measured, to one row per
    model; images without a class are passed over.

    UserError where an image cannot be read, or none can be used.
    """
    from ssld_pipeline.models.predict import open_predictor
    from ssld_pipeline.training.evaluate import evaluate

    placement = setup.config.placement
    num_readers = max(placement.loader_threads, setup.num_threads)
    models = _models(setup)

    @cache
    def predictor_of(name: str) -> Predictor:
        return open_predictor(models[name][0], setup.device, num_threads=setup.num_threads)

    def work(rows: pa.Table, kept: pa.Table | None = None) -> PartResult:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = rows.filter(pc.is_valid(rows["class_id"]))
        found, rejects = [], []
        input_name = rows["image_id"][0].as_py().split("/", 1)[0] if rows.num_rows else ""
        own = EVALUATIONS.row_schema().empty_table() if kept is None else kept.select(EVALUATIONS.row_schema().names)
        known = set(own["model"].to_pylist())
        # Which images cannot be used is found by measuring: one model is measured where nothing else is to be.
        wanted = [name for name in models if name not in known] or list(models)[-1:]
        own = own.filter(pc.invert(pc.is_in(own["model"], pa.array(wanted, pa.string()))))
        for name in wanted if rows.num_rows else ():
            predictor = predictor_of(name)
            _, image_size, crop_pct = models[name]
            figures = evaluate(predictor, rows, image_size, crop_pct, num_readers)
            rejects = figures.pop("rejects")  # of the same images for every model
            # What cannot be read today is part of the input all the same: without it an accuracy is of other images.
            of_input, consequence = f"labelled images of the input {input_name!r}", "there is no accuracy on it"
            refuse_gaps("evaluate", of_input, rejects, rows.num_rows, rows.num_rows, consequence)
            found.append(
                {
                    "model": name,
                    "input": input_name,
                    "image_size": image_size,
                    "weights": LAST,
                    **figures,
                    "num_parameters": sum(p.numel() for p in predictor.model.parameters()),
                }
            )
        measured = pa.Table.from_pylist(found, EVALUATIONS.row_schema())
        return PartResult(pa.concat_tables([own, measured]).combine_chunks(), rejects)

    return work


def _models(setup: Setup) -> dict[str, tuple[ModelSpec, int, float]]:
    """By name: network, side of its evaluation view in pixels, crop share."""
    config = setup.config
    models = {"teacher": (teacher_spec(setup), config.teacher.image_size, config.teacher.crop_pct)}
    for name in config.ordered_nodes():
        if name in setup.artifacts:
            spec = model_spec(config, name, len(setup.classes), setup.artifacts[name] / MODEL_FILE)
            models[name] = (spec, *_view_of(config, name))
    return models


def _view_of(config: RunConfig, name: str) -> tuple[int, float]:
    """As in the validations of that training."""
    node = config.nodes[name]
    return node.image_size, node.crop_pct


def stage(config: RunConfig) -> PartStage:
    """It reads the model of every training."""
    return PartStage(
        name="evaluate",
        version=4,
        table="evaluations",
        reads=("catalog",),
        settings=settings,
        open=open_evaluate,
        per="input",
        artifacts=("fit_teacher", *config.ordered_nodes()),
        networks=("teacher",),
        uses_classes=True,
        roles=lambda config: ("protected",),
        passes=lambda config: 1 + len(config.nodes),
        keep=keep,
        keeps_over=("artifacts",),
    )
