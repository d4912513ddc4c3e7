"""The page compares trainings: any number of them, in their order, on tables of this version and earlier ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from made_trainings import evaluation
from reported import Page, database, html_of, trained

from ssld_pipeline.queries.trainings import Training
from ssld_pipeline.report import curves, svg
from ssld_pipeline.report.comparison import compare
from ssld_pipeline.report.figures import evaluations
from ssld_pipeline.report.headline import headline_models, student_chain


def line(*steps: int, **values: Any) -> str:
    return "\n".join(json.dumps({"step": s, "loss": 1.0, **values}) for s in steps)


def node(name: str, start: str | None = None, **values: Any) -> Training:
    return trained(name, starts_from=start, start=start, **{"teacher": "teacher", "network": "timm:a", **values})


def measured(*rows: dict[str, Any], order: tuple[str, ...] = ()) -> list[Any]:
    return evaluations(database(evaluations=[{**row, "part": "p"} for row in rows]), order)


def student(trainings: list[Training], *rows: dict[str, Any]) -> str | None:
    found = headline_models(measured(*rows), trainings)["student"]
    return found.model if found else None


def test_a_training_goes_on_where_the_one_it_starts_from_ends() -> None:
    chain = [trained("a", line(50, 100)), trained("b", line(10, 20), starts_from="a")]
    chain += [trained("c", line(5), starts_from="b"), trained("d", line(7))]
    series = {s.name: [x for x, _ in s.points] for s in curves.charts(chain)[0].series}
    assert series == {"a": [50, 100], "b": [110, 120], "c": [125], "d": [7]}


def test_a_training_whose_start_wrote_nothing_begins_at_zero() -> None:
    found = curves.charts([trained("a"), trained("b", line(10, 20), starts_from="a")])
    assert [x for x, _ in found[0].series[0].points] == [10, 20]


def test_all_charts_have_the_same_steps() -> None:
    """A validation at the end alone is drawn at the end."""
    text = line(10, 20, 30) + "\n" + json.dumps({"step": 30, "validation_top1": 0.5})
    page = Page(html_of({}, trainings=[trained("a", text), trained("b", line(10), starts_from="a")]))
    (dot,) = [a for a in page.all("circle") if a["class"] == "fill c0 d0"]
    ends = [points.split()[-1].split(",")[0] for a in page.all("polyline") if (points := a["points"])]
    assert dot["cx"] == ends[0] and float(dot["cx"] or 0) < svg.WIDTH - svg.RIGHT, "b goes on after it"


def test_each_of_eighteen_curves_looks_different_and_has_the_style_of_its_legend() -> None:
    trainings = [trained(f"t{k}", line(1, 2, lr=0.1)) for k in range(18)]
    styles = curves.styles(trainings)
    assert len(set(styles.values())) == 18 and styles["t0"] == "c0 d0"
    page = Page(html_of({}, trainings=trainings))
    drawn = [a["class"] for a in page.all("polyline")]
    keys = [a["class"] for a in page.all("span") if (a.get("class") or "").startswith("line-key")]
    expected = list(styles.values())
    assert drawn == [f"line {style}" for style in expected] * 2, "loss and learning rate"
    assert keys == [f"line-key {style}" for style in expected] * 2, "table and legend"


def test_trainings_are_compared_in_their_order_and_what_is_missing_is_a_dash() -> None:
    trainings = [node("teacher", network="timm:t"), node("b"), node("a", "b", step=7), node("c")]
    rows = (
        evaluation("a", 0.5),
        evaluation("gone", 0.1),
        evaluation("b", 0.25, num_parameters=7),
        evaluation("teacher", 0.75),
    )
    _, found = compare(trainings, measured(*rows), {})
    assert [row.training.name for row in found] == ["teacher", "b", "a", "c", "gone"]
    assert [[e.top1 for e in row.cells[0]] for row in found] == [[0.75], [0.25], [0.5], [], [pytest.approx(0.1)]]
    assert [row.num_parameters for row in found] == [5_000_000, 7, 5_000_000, None, 5_000_000]
    assert [row.made for row in found] == [
        "given weights",
        "nothing yet",
        "training, step 7",
        "nothing yet",
        "nothing yet",
    ]


def test_each_protected_input_has_its_column_and_each_size_its_interval() -> None:
    rows = [
        evaluation("a", 0.5),
        evaluation("a", 0.6, image_size=64),
        evaluation("a", 0.2, input="real", num_images=900),
    ]
    scales, (row,) = compare([node("a")], measured(*rows), {})
    assert [s.input for s in scales] == ["real", "protected"], "the largest first"
    assert [[e.image_size for e in cell] for cell in row.cells] == [[32], [32, 64]]
    low, high = scales[1].low, scales[1].high
    assert low == row.cells[1][0].low and high == row.cells[1][1].high
    assert (scales[1].place(low), scales[1].place(high)) == (0, 100)


def test_cost_and_date_are_told_as_far_as_they_are_known() -> None:
    made = {"made_at": 0.0, "process_seconds": 7500.0}
    trainings = [node("a", **made), node("b", **made, is_resumed=True, step=30), node("c", made_at=60.0)]
    _, found = compare(trainings, [], {})
    assert [row.cost for row in found] == ["2 h 05 min", "≥ 2 h 05 min", "–"]
    assert [row.made for row in found] == ["1970-01-01 00:00", "1970-01-01 00:00; again at step 30", "1970-01-01 00:01"]


def test_the_table_says_all_of_a_training() -> None:
    known = {"start": "first", "data": "manifest", "teacher": "tuned", "objective": "kl (temperature 2)", "steps": 1200}
    one = trained(
        "small_one",
        line(1200),
        network="timm:m",
        **known,
        images_per_s=333.3,
        together=("other",),
        made_at=0.0,
        num_gpus=8,
    )
    page = Page(html_of({"evaluations": [{**evaluation("small_one", 0.5), "part": "p"}]}, trainings=[one]))
    text = page.squeezed("training").replace("_ ", "_").replace("timm: ", "timm:")
    for words in ("small_one timm:m 5 M parameters", "50.0 % 32 px", "45.1 % – 54.9 %", "1,200 333 images/s"):
        assert words in text, words
    assert "first manifest tuned kl (temperature 2)" in text and "on 8 GPUs with other" in text


def test_evaluations_of_an_earlier_version_have_no_size() -> None:
    row = {**evaluation("train", 0.5), "image_size": None, "weights": None}
    page = Page(html_of({"evaluations": [{**row, "part": "p"}]}, trainings=[node("train")]))
    assert "train protected – 50.0 %" in page.squeezed("evaluation")
    assert "px" not in page.squeezed("training")
    assert "50.0 %" in page.squeezed("headline")


def test_the_student_is_the_end_of_the_chain_that_begins_at_train() -> None:
    trainings = [
        node("other"),
        node("train"),
        node("finetune", "train"),
        node("late", "train"),
        node("fix", "finetune"),
    ]
    assert [one.name for one in student_chain(trainings)] == ["train", "finetune", "fix"]
    rows = [evaluation("other", 0.9), evaluation("train", 0.8), evaluation("finetune", 0.3), evaluation("late", 0.95)]
    assert student(trainings, *rows) == "finetune", "the last that is evaluated, whatever its accuracy"
    assert student(trainings, *rows, evaluation("fix", 0.1)) == "fix"


def test_without_train_the_first_training_with_a_teacher_begins_the_chain() -> None:
    trainings = [node("hard", teacher=None), node("big"), node("big_tuned", "big"), node("small", teacher="big_tuned")]
    assert [one.name for one in student_chain(trainings)] == ["big", "big_tuned"]
    assert [one.name for one in student_chain([node("hard", teacher=None)])] == ["hard"]
    assert student_chain([]) == [] and student([], evaluation("x", 0.5)) is None


def test_the_baseline_has_no_teacher_and_the_students_network() -> None:
    other = node("other", teacher=None, network="timm:b")
    alike = node("labels_only", teacher=None)
    rows = [evaluation(name, 0.5) for name in ("train", "other", "labels_only", "baseline")]
    found = headline_models(measured(*rows), [other, node("train"), alike])
    assert found["baseline"] is not None and found["baseline"].model == "labels_only"
    named = headline_models(measured(*rows), [other, node("train"), alike, node("baseline", teacher=None)])
    assert named["baseline"] is not None and named["baseline"].model == "baseline"
    assert headline_models(measured(*rows), [other, node("train")])["baseline"] is None


def test_the_headline_has_the_size_that_the_student_was_trained_at() -> None:
    rows = [evaluation("train", 0.5, image_size=32), evaluation("train", 0.9, image_size=64)]
    found = headline_models(measured(*rows), [node("train", image_size=64)])["student"]
    assert found is not None and found.image_size == 64
