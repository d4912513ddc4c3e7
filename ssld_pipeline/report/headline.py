"""The three models of the headline: chosen by their place in the graph of trainings, never by their accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssld_pipeline.queries.trainings import FIT, Training
from ssld_pipeline.report.figures import Evaluation


def headline_models(found: Sequence[Evaluation], trainings: Sequence[Training]) -> Mapping[str, Evaluation | None]:
    """Evaluations by ``baseline``, ``student`` and ``teacher`` on the largest protected input.

    student: the last training that is evaluated of a chain: ``train``, the training that starts from it, and so on;
    of several that start from the same one the first. Without ``train`` the chain begins at the first training that
    has a teacher and starts from no other, or at the first of all. baseline: the training ``baseline``, or the first
    that has no teacher, starts from no other and trains the student's network.
    """
    largest = max(found, key=lambda e: e.num_images).input if found else None
    own = [e for e in found if e.input == largest]
    chain = [one for one in student_chain(trainings) if any(e.model == one.name for e in own)]
    student = chain[-1] if chain else None
    baseline = _baseline(trainings, student)
    return {
        "baseline": _measured(own, baseline) if baseline else None,
        "student": _measured(own, student) if student else None,
        "teacher": next((e for e in own if e.model == "teacher"), None),
    }


def student_chain(trainings: Sequence[Training]) -> list[Training]:
    """From the training that the headline's chain begins with to the last one."""
    students = [one for one in trainings if one.name not in (FIT, "teacher")]
    first = [one for one in students if one.starts_from is None and one.teacher is not None]
    train = [one for one in students if one.name == "train"]
    chain = (train or first or students)[:1]
    while chain and (following := [one for one in students if one.starts_from == chain[-1].name]):
        chain.append(following[0])
    return chain


def _baseline(trainings: Sequence[Training], student: Training | None) -> Training | None:
    named = [one for one in trainings if one.name == "baseline"]
    alike = [
        one
        for one in trainings
        if student and one.teacher is None and one.starts_from is None and one.network == student.network
        if one.name not in (FIT, "teacher", student.name)
    ]
    return next(iter(named or alike), None)


def _measured(own: Sequence[Evaluation], one: Training) -> Evaluation | None:
    """Its evaluation at the size it was trained at; else at the smallest."""
    of_model = [e for e in own if e.model == one.name]
    return min(of_model, key=lambda e: (e.image_size != one.image_size, e.image_size or 0), default=None)
