import numpy as np
import pytest

from ssld_pipeline.copies.pixels.edges import quantile


@pytest.mark.parametrize("share", [0, 0.5, 0.9, 0.95, 1])
@pytest.mark.parametrize("seed", range(6))
def test_the_quantile_is_that_of_numpy(seed, share):
    rng = np.random.default_rng(seed)
    values = rng.gamma(0.3, 20, (40, 50)) * (rng.random((40, 50)) < rng.random())
    where = rng.random(values.shape) < rng.random()
    expected = np.quantile(values.astype(np.float32)[where], share)
    assert quantile(values.astype(np.float32), where, share) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_quantile_of_one_value_of_zeros_and_of_none():
    values = np.zeros((4, 4), np.float32)
    values[1, 1] = 3
    assert [quantile(values, where, 0.9) for where in (values > 0, values == 0, values < 0)] == [3, 0, 0]
