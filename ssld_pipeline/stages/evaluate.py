"""evaluate: top-1 and top-5 of every model of the run on every protected input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import EVALUATIONS
from ssld_pipeline.rejects import refuse_gaps
from ssld_pipeline.stages.stage import PartResult, PartStage, Setup
from ssld_pipeline.stages.teacher import teacher_settings, teacher_spec
from ssld_pipeline.stages.trainings import model_spec, network_of, network_settings
from ssld_pipeline.training.job import MODEL_FILE

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.models.spec import ModelSpec

LAST = "last"
"""Column ``weights``: those of the last step."""


def settings(config: RunConfig) -> dict[str, Any]:
    models = {
        name: {"student": network_settings(network_of(config, name)), "view": list(_view_of(config, name))}
        for name in config.nodes
    }
    return {"teacher": teacher_settings(config), "models": models}


def open_evaluate(setup: Setup) -> Callable[[pa.Table], PartResult]:
    """The function from the catalog rows of one input to one row per model; images without a class are passed over.

    UserError where an image cannot be read, or none can be used.
    """
    from ssld_pipeline.models.predict import open_predictor
    from ssld_pipeline.training.evaluate import evaluate

    placement = setup.config.placement
    num_readers = max(placement.loader_threads, setup.num_threads)
    models = _models(setup)
    predictors = {
        name: open_predictor(spec, setup.device, num_threads=setup.num_threads) for name, (spec, _, _) in models.items()
    }

    def work(rows: pa.Table) -> PartResult:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = rows.filter(pc.is_valid(rows["class_id"]))
        found, rejects = [], []
        input_name = rows["image_id"][0].as_py().split("/", 1)[0] if rows.num_rows else ""
        for name, predictor in predictors.items() if rows.num_rows else ():
            _, image_size, crop_pct = models[name]
            figures = evaluate(predictor, rows, image_size, crop_pct, num_readers)
            rejects = figures.pop("rejects")  # of the same images for every model
            # What cannot be read today is part of the input all the same: without it an accuracy is of other images.
            own, consequence = f"labelled images of the input {input_name!r}", "there is no accuracy on it"
            refuse_gaps("evaluate", own, rejects, rows.num_rows, rows.num_rows, consequence)
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
        return PartResult(pa.Table.from_pylist(found, EVALUATIONS.row_schema()), rejects)

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
    )
