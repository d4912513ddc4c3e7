"""evaluate: top-1 and top-5 of every model of the run on every protected input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ssld_pipeline.contracts import EVALUATIONS
from ssld_pipeline.rejects import refuse_gaps
from ssld_pipeline.stages.stage import PartResult, PartStage, Setup
from ssld_pipeline.stages.student import MODEL_FILE, student_spec
from ssld_pipeline.stages.teacher import teacher_settings, teacher_spec

if TYPE_CHECKING:
    import pyarrow as pa

    from ssld_pipeline.config.run import RunConfig
    from ssld_pipeline.models.spec import ModelSpec

_STUDENTS = ("baseline", "train", "finetune")


def settings(config: RunConfig) -> dict[str, Any]:
    student = config.student.model_dump(mode="json", exclude={"weights"})
    sizes = {name: list(_view_of(config, name)) for name in _students(config)}
    return {"teacher": teacher_settings(config), "student": student, "views": sizes}


def _students(config: RunConfig) -> list[str]:
    return [name for name in _STUDENTS if getattr(config, name)]


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
    for name in _STUDENTS:
        if name in setup.artifacts:
            spec = student_spec(setup, setup.artifacts[name] / MODEL_FILE)
            models[name] = (spec, *_view_of(config, name))
    return models


def _view_of(config: RunConfig, name: str) -> tuple[int, float]:
    """As in the validation of that training run: its section may have a size of its own."""
    section = getattr(config, name)
    return section.image_size, section.crop_pct


STAGE = PartStage(
    name="evaluate",
    version=3,
    table="evaluations",
    reads=("catalog",),
    settings=settings,
    open=open_evaluate,
    per="input",
    artifacts=("fit_teacher", *_STUDENTS),
    networks=("teacher",),
    uses_classes=True,
    roles=lambda config: ("protected",),
    passes=lambda config: 1 + len(_students(config)),
)
