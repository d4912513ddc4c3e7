"""An objective over parts of a batch adds up to the objective over the batch."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from ssld_pipeline.kernels.divergences import symmetric_kl
from ssld_pipeline.kernels.relations import intra_class
from ssld_pipeline.terms.dist import Dist
from ssld_pipeline.terms.hard_ce import HardCe
from ssld_pipeline.terms.registry import TERMS
from ssld_pipeline.terms.term import Signals
from ssld_pipeline.training.group import ALONE
from ssld_pipeline.training.objective import Objective

CLASS_IDS = torch.tensor([2, -1, 0, -1, -1, -1, 1, 3])


def signals(seed: int = 0) -> Signals:
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(8, 4, generator=random) for _ in range(2))
    return Signals(student, teacher, CLASS_IDS, CLASS_IDS.clamp(min=0))


def parts(whole: Signals, size: int) -> list[Signals]:
    assert whole.teacher is not None
    tensors = (whole.student, whole.teacher, whole.class_ids, whole.mined_ids)
    return [Signals(*split) for split in zip(*(t.split(size) for t in tensors), strict=True)]


@pytest.mark.parametrize("name", TERMS)
def test_every_term_gives_a_loss_per_image_or_per_norm_batch(name: str) -> None:
    term = TERMS[name]()
    shapes = [
        part if part is None else part.shape for part in (term.per_row(signals()), term.per_norm_batch(signals()))
    ]
    assert shapes in ([(8,), None], [None, ()], [(8,), ()])


@pytest.mark.parametrize("name", TERMS)
def test_the_losses_of_parts_add_up_to_that_of_the_batch(name: str) -> None:
    """However many norm batches pass at once."""
    whole, term = signals(), TERMS[name](weight=0.7)
    objective = Objective([term], 8, ALONE)
    counted = objective.num_counted(whole.class_ids, whole.mined_ids)
    losses = objective.losses(whole, counted, norm_batch=2)
    assert losses.shape == (4,) and losses.sum() > 0
    for size in (2, 4):
        found = torch.cat([objective.losses(part, counted, norm_batch=2) for part in parts(whole, size)])
        assert torch.allclose(found, losses, rtol=1e-5)


def test_a_loss_of_norm_batches_is_weighted_by_their_share_of_the_batch() -> None:
    whole, term = signals(), Dist(weight=0.7, beta=0, gamma=2)
    losses = Objective([term], 8, ALONE).losses(whole, [8], norm_batch=2)
    each = torch.stack([intra_class(part.student, part.teacher) for part in parts(whole, 2)])
    assert torch.allclose(losses, 0.7 * 2 * each / 4)
    assert Objective([term], 8, ALONE).losses(whole, [8], norm_batch=8).item() == pytest.approx(
        1.4 * intra_class(whole.student, whole.teacher).item()
    )


def test_terms_are_weighted_means_over_the_rows_that_count() -> None:
    """Of the second norm batch no row has a class; it counts for nothing rather than for a mean of its own."""
    whole = signals()
    objective = Objective([TERMS["symmetric_kl"](), HardCe(weight=0.3)], 8, ALONE)
    counted = objective.num_counted(whole.class_ids, whole.mined_ids)
    losses = objective.losses(whole, counted, norm_batch=2)
    labelled = CLASS_IDS >= 0
    assert whole.teacher is not None
    hard = cross_entropy(whole.student[labelled], CLASS_IDS[labelled])
    assert losses.sum() == pytest.approx(float(symmetric_kl(whole.student, whole.teacher) + 0.3 * hard), rel=1e-6)
    found = torch.cat([objective.losses(part, counted, norm_batch=2) for part in parts(whole, 4)])
    assert torch.allclose(found, losses, rtol=1e-6)
    third = objective.losses(parts(whole, 2)[2], counted, norm_batch=2)
    assert third == pytest.approx(float(symmetric_kl(whole.student[4:6], whole.teacher[4:6])) / 4, rel=1e-6)


def test_a_batch_without_a_class_has_no_loss_of_classes() -> None:
    whole = signals()
    none = torch.full_like(CLASS_IDS, -1)
    objective = Objective([HardCe()], 8, ALONE)
    losses = objective.losses(Signals(whole.student, None, none, none), objective.num_counted(none, none), 4)
    assert losses.tolist() == [0, 0]
