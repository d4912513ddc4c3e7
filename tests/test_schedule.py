from __future__ import annotations

import numpy as np
import pytest
import trial

from ssld_pipeline.training.schedule import (
    lr_at,
    num_steps,
    num_warmup_steps,
    steps_per_epoch,
    validation_steps,
)


def test_the_rate_rises_from_0_linearly_and_falls_to_0_as_a_cosine() -> None:
    peak, warmup, total = 3.65625, 50, 1000
    rates = np.array([lr_at(step, peak, warmup, total) for step in range(total + 1)])
    assert rates[0] == 0 and rates[warmup] == peak and rates[total] == pytest.approx(0, abs=1e-12)
    assert np.allclose(np.diff(rates[: warmup + 1]), peak / warmup)
    # PyTorch's closed form of SGDR without restarts, arXiv:1608.03983 equation 5
    place = np.linspace(0, np.pi, total - warmup + 1)
    assert np.allclose(rates[warmup:], peak / 2 * (1 + np.cos(place)))
    assert lr_at((warmup + total) // 2, peak, warmup, total) == pytest.approx(peak / 2)


def test_the_publications_run_has_the_publications_length() -> None:
    """5 M images, batches of 5760, 360 epochs, 5 of them warm-up."""
    settings = trial.settings(steps=None, epochs=360, batch_size=5760, warmup_epochs=5)
    assert num_steps(settings, 5_000_000) == 360 * 868
    assert num_warmup_steps(settings, 5_000_000) == 5 * 868


def test_a_part_of_an_epoch_is_trained_and_a_part_of_a_batch_is_not() -> None:
    assert steps_per_epoch(trial.settings(batch_size=8), 31) == 3
    assert num_steps(trial.settings(steps=None, epochs=1.5, batch_size=8), 32) == 6
    assert num_steps(trial.settings(steps=None, epochs=0.01, batch_size=8), 32) == 1
    assert num_steps(trial.settings(steps=77, epochs=5), 32) == 77


def test_a_run_shorter_than_its_warm_up_still_reaches_the_peak() -> None:
    settings = trial.settings(steps=None, epochs=2, batch_size=8, warmup_epochs=5, lr=1.0)
    total, warmup = num_steps(settings, 80), num_warmup_steps(settings, 80)
    assert max(lr_at(step, 1.0, warmup, total) for step in range(total)) == 1.0


def test_before_anything_is_counted_a_run_has_a_length() -> None:
    """`ssld plan` on an empty workspace asks for it."""
    assert num_steps(trial.settings(steps=None, epochs=3, batch_size=64), 0) == 3


@pytest.mark.parametrize(
    ("validations", "total", "expected"), [(4, 100, {25, 50, 75, 100}), (3, 2, {1, 2}), (0, 9, set())]
)
def test_validations_are_spread_and_the_last_is_at_the_end(validations: int, total: int, expected: set[int]) -> None:
    assert validation_steps(trial.settings(validations=validations), total) == expected
