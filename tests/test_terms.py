"""Terms as a config names them: against figures of the official implementations (tests/golden), and their laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from ssld_pipeline.terms.registry import AnyTerm
from ssld_pipeline.terms.term import Signals, Term
from ssld_pipeline.training.group import ALONE
from ssld_pipeline.training.objective import Objective

GOLDEN = Path(__file__).parent / "golden"
ORDINARY = [
    "small_b4c5",
    "b8c10",
    "identical_b4c7",
    "batch1_c10",
    "const_student_row_b4c5",
    "affine_b5c4",
    "square_b6c6",
]
EXTREME = "extreme80_b3c6"
EXACT = {"rtol": 1e-10, "atol": 1e-12}  # what the golden files advise
EXACT_AT_80 = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(scope="module")
def hinton() -> Any:
    return np.load(GOLDEN / "kd_hinton.npz", allow_pickle=False)


def term_of(settings: Any) -> Term:
    found = TypeAdapter(AnyTerm).validate_python(settings)
    assert isinstance(found, Term)
    return found


def loss(term: Term, signals: Signals, norm_batch: int | None = None) -> Tensor:
    """Of the batch, as trainings compute it."""
    size = len(signals.student)
    objective = Objective([term], size, ALONE)
    counted = objective.num_counted(signals.class_ids, signals.mined_ids)
    return objective.losses(signals, counted, norm_batch or size).sum()


def measured(settings: Any, z: Any, case: str) -> tuple[float, Any]:
    """Loss of a batch and its gradient, in float64."""
    student = torch.tensor(z[f"{case}/z_s"], requires_grad=True)
    class_ids = torch.tensor(z[f"{case}/y"])
    value = loss(term_of(settings), Signals(student, torch.tensor(z[f"{case}/z_t"]), class_ids, class_ids))
    assert value.dtype == torch.float64
    value.backward()
    assert student.grad is not None
    return value.item(), student.grad.numpy()


@pytest.mark.parametrize("temperature", [1, 2, 4])
@pytest.mark.parametrize("case", [*ORDINARY, EXTREME])
def test_reverse_kl_is_the_official_one(hinton: Any, case: str, temperature: int) -> None:
    value, gradient = measured({"term": "reverse_kl", "temperature": temperature}, hinton, case)
    tolerance = EXACT_AT_80 if case == EXTREME else EXACT
    np.testing.assert_allclose(value, hinton[f"{case}/T{temperature}/rkd"], **tolerance)
    np.testing.assert_allclose(gradient, hinton[f"{case}/T{temperature}/rkd_grad_s"], **tolerance)


@pytest.mark.parametrize(("smoothing", "key"), [(0, "ce"), (0.1, "ls_0.1"), (0.3, "ls_0.3")])
@pytest.mark.parametrize("case", [*ORDINARY, EXTREME])
def test_label_smoothing_is_the_official_one(hinton: Any, case: str, smoothing: float, key: str) -> None:
    value, gradient = measured({"term": "hard_ce", "label_smoothing": smoothing}, hinton, case)
    tolerance = EXACT_AT_80 if case == EXTREME else EXACT
    np.testing.assert_allclose(value, hinton[f"{case}/{key}"], **tolerance)
    np.testing.assert_allclose(gradient, hinton[f"{case}/{key}_grad_s"], **tolerance)


def test_label_smoothing_at_its_default_changes_no_fingerprint() -> None:
    assert term_of({"term": "hard_ce", "label_smoothing": 0}).of_fingerprint() == {"term": "hard_ce"}
    assert term_of({"term": "hard_ce", "label_smoothing": 0.1}).of_fingerprint()["label_smoothing"] == 0.1
