"""Terms as a config names them: against figures of the official implementations (tests/golden), and their laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import EXTREME, GOLDEN, ORDINARY
from pydantic import TypeAdapter
from scipy.special import softmax
from torch import Tensor

from ssld_pipeline.terms.registry import TERMS, AnyTerm
from ssld_pipeline.terms.term import Signals, Term
from ssld_pipeline.training.group import ALONE
from ssld_pipeline.training.objective import Objective

EXACT = {"rtol": 1e-10, "atol": 1e-12}  # what the golden files advise
EXACT_AT_80 = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(scope="module")
def hinton() -> Any:
    return np.load(GOLDEN / "kd_hinton.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def dist() -> Any:
    return np.load(GOLDEN / "dist.npz", allow_pickle=False)


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


@pytest.mark.parametrize("temperature", [1, 2, 4])
@pytest.mark.parametrize("case", [*ORDINARY, EXTREME])
def test_dist_is_the_official_one(dist: Any, case: str, temperature: int) -> None:
    """Rows without variance have gradients of 1e6 in the official code, too."""
    z, place = dist, f"{case}/tau{temperature}"
    for key, beta, gamma in (("b1g1", 1, 1), ("b2g0.5", 2, 0.5)):
        settings = {"term": "dist", "beta": beta, "gamma": gamma, "temperature": temperature}
        value, gradient = measured(settings, z, case)
        expected = z[f"{place}/loss_{key}_grad_s"]
        np.testing.assert_allclose(value, z[f"{place}/loss_{key}"], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=max(1e-10, 1e-9 * np.abs(expected).max()))
    for key, beta, gamma in (("inter", 1, 0), ("intra", 0, 1)):
        settings = {"term": "dist", "beta": beta, "gamma": gamma, "temperature": temperature}
        np.testing.assert_allclose(measured(settings, z, case)[0], z[f"{place}/{key}"], rtol=1e-9, atol=1e-10)


def test_dist_of_pixels_is_the_official_one(dist: Any) -> None:
    def rows(values: Any) -> Any:
        return np.swapaxes(values, 1, 3).reshape(-1, values.shape[1])

    z = {f"pixels/{name}": rows(dist[f"seg4d/{name}"]) for name in ("z_s", "z_t", "grad_s")}
    z["pixels/y"] = np.zeros(len(z["pixels/z_s"]), np.int64)
    value, gradient = measured("dist", z, "pixels")
    np.testing.assert_allclose(value, dist["seg4d/loss_b1g1"], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(gradient, z["pixels/grad_s"], rtol=1e-9, atol=1e-10)


def test_dist_of_one_image_has_no_relation_between_images(dist: Any) -> None:
    value, gradient = measured({"term": "dist", "beta": 0, "temperature": 2}, dist, "batch1_c10")
    assert value == 4 and not gradient.any()


def test_dist_ignores_scale_and_shift_of_probabilities() -> None:
    uniform = torch.full((5, 6), 1 / 6, dtype=torch.float64)
    probs = torch.softmax(torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)
    class_ids = torch.zeros(5, dtype=torch.int64)
    signals = Signals((0.6 * probs + 0.4 * uniform).log(), probs.log(), class_ids, class_ids)
    assert loss(term_of("dist"), signals).item() == pytest.approx(0, abs=1e-5)


def decoupled(z_s: Any, z_t: Any, classes: Any, temperature: float) -> tuple[Any, Any, Any]:
    """Both parts of the loss of each image, and the teacher's probability of the other classes: numpy, float64."""
    own = np.eye(z_s.shape[1], dtype=bool)[classes]
    s, t = softmax(z_s / temperature, axis=1), softmax(z_t / temperature, axis=1)
    s_own, t_own = s[own], t[own]
    s_others, t_others = (p[~own].reshape(len(p), -1) for p in (s, t))
    s_rest, t_rest = s_others.sum(axis=1), t_others.sum(axis=1)
    of_class = t_own * np.log(t_own / s_own) + t_rest * np.log(t_rest / s_rest)
    s_among, t_among = s_others / s_rest[:, None], t_others / t_rest[:, None]
    of_others = (t_among * np.log(t_among / s_among)).sum(axis=1)
    return of_class * temperature**2, of_others * temperature**2, t_rest


@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize("case", ["small_b4c5", "b8c10", "batch1_c10", "const_student_row_b4c5", "square_b6c6"])
def test_decoupled_kd_is_its_closed_form(hinton: Any, case: str, temperature: int) -> None:
    z_s, z_t, classes = (hinton[f"{case}/{name}"] for name in ("z_s", "z_t", "y"))
    of_class, of_others, _ = decoupled(z_s, z_t, classes, temperature)
    for alpha, beta in ((1, 0), (0, 1), (1, 8), (2, 0.5)):
        settings = {"term": "decoupled_kd", "alpha": alpha, "beta": beta, "temperature": temperature}
        value, gradient = measured(settings, hinton, case)
        np.testing.assert_allclose(value, (alpha * of_class + beta * of_others).mean(), rtol=1e-9, atol=1e-12)
        # dL/dz_s: (s_own - t_own) of the class and of the others as a whole; (s' - t') among the others.
        own = np.eye(z_s.shape[1], dtype=bool)[classes]
        s, t = softmax(z_s / temperature, axis=1), softmax(z_t / temperature, axis=1)
        s_among, t_among = (np.where(own, 0, p) / np.where(own, 0, p).sum(axis=1, keepdims=True) for p in (s, t))
        shift = (s[own] - t[own])[:, None]
        expected = alpha * np.where(own, shift, -shift * s_among) + beta * (s_among - t_among)
        np.testing.assert_allclose(gradient, expected * temperature / len(z_s), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1, 2, 4])
@pytest.mark.parametrize("case", [*ORDINARY, EXTREME])
def test_decoupled_kd_with_the_weights_of_kl_is_kl(hinton: Any, case: str, temperature: int) -> None:
    """Value and gradient of the official KD, of which it is a decomposition."""
    z_s = torch.tensor(hinton[f"{case}/z_s"], requires_grad=True)
    z_t, classes = torch.tensor(hinton[f"{case}/z_t"]), torch.tensor(hinton[f"{case}/y"])
    signals = Signals(z_s, z_t, classes, classes)
    parts = [{"alpha": 1, "beta": 0}, {"alpha": 0, "beta": 1}]
    terms = [term_of({"term": "decoupled_kd", "temperature": temperature, **part}) for part in parts]
    of_class, of_others = (term.per_row(signals) for term in terms)
    assert of_class is not None and of_others is not None
    others = 1 - torch.softmax(z_t / temperature, dim=1).gather(1, classes[:, None]).squeeze(1)
    value = (of_class + others * of_others).mean()
    value.backward()
    assert z_s.grad is not None
    np.testing.assert_allclose(value.item(), hinton[f"{case}/T{temperature}/kd"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(z_s.grad, hinton[f"{case}/T{temperature}/kd_grad_s"], rtol=1e-9, atol=1e-12)


def test_decoupled_kd_of_two_classes_has_no_others() -> None:
    whole = drawn(6, classes=2)
    assert loss(term_of({"term": "decoupled_kd", "alpha": 0}), whole).item() == pytest.approx(0, abs=1e-15)


def test_decoupled_kd_takes_the_class_an_image_was_selected_for() -> None:
    whole = drawn(6)
    every = term_of({"term": "decoupled_kd", "rows": "all"})
    assert loss(every, whole) != loss(term_of("decoupled_kd"), whole)
    true = Signals(whole.student, whole.teacher, whole.mined_ids, whole.mined_ids)
    assert loss(every, whole) == loss(term_of("decoupled_kd"), true)


# Every term


def drawn(size: int, dtype: torch.dtype = torch.float64, classes: int = 5) -> Signals:
    random = torch.Generator().manual_seed(size)
    student, teacher = (3 * torch.randn(size, classes, generator=random, dtype=torch.float64) for _ in range(2))
    class_ids = torch.randint(-1, classes, (size,), generator=random)
    class_ids[0] = 1
    return Signals(student.to(dtype).requires_grad_(), teacher.to(dtype), class_ids, class_ids.clamp(min=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TERMS)
def test_finite_at_logits_of_80(name: str, dtype: torch.dtype) -> None:
    rows = [[80, -80, 0.0], [-80, -80, -80], [80, 80, -80], [0, 0, 0], [-80, 80, 80]]
    class_ids = torch.tensor([1, 0, 2, -1, 0])
    teachers = torch.tensor(rows, dtype=dtype)
    for norm_batch, teacher in (
        (5, -teachers),
        (1, -teachers),
        (5, teachers.flip(0)),
        (5, teachers),
        (5, 0 * teachers),
    ):
        student = teachers.clone().requires_grad_()
        value = loss(term_of(name), Signals(student, teacher, class_ids, class_ids), norm_batch)
        value.backward()
        assert value.dtype == torch.float32 and torch.isfinite(value)
        assert student.grad is not None and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_finite_differences(name: str, size: int) -> None:
    whole = drawn(size)

    def of(student: Tensor) -> Tensor:
        return loss(term_of(name), Signals(student, whole.teacher, whole.class_ids, whole.mined_ids))

    assert torch.autograd.gradcheck(of, (whole.student,))


@pytest.mark.parametrize("name", TERMS)
def test_images_without_a_class_teach_only_what_needs_none(name: str) -> None:
    whole = drawn(6)
    none = torch.full_like(whole.class_ids, -1)
    value = loss(term_of(name), Signals(whole.student, whole.teacher, none, none), norm_batch=3)
    value.backward()
    assert whole.student.grad is not None and torch.isfinite(whole.student.grad).all()
    of_classes = "rows" in TERMS[name].model_fields
    assert (value.item() == 0) == of_classes and whole.student.grad.any() != of_classes


@pytest.mark.parametrize("name", TERMS)
def test_autocast_does_not_lower_the_precision(name: str) -> None:
    whole = drawn(8, classes=100)
    assert whole.teacher is not None
    half = Signals(whole.student.float(), whole.teacher.float(), whole.class_ids, whole.mined_ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(term_of(name), half).item() == pytest.approx(loss(term_of(name), whole).item(), rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_the_teacher_gets_no_gradient(name: str) -> None:
    whole = drawn(4)
    assert whole.teacher is not None
    teacher = whole.teacher.requires_grad_()
    loss(term_of(name), Signals(whole.student, teacher, whole.class_ids, whole.mined_ids)).backward()
    assert teacher.grad is None
