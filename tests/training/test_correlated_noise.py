"""The base noise that is carried from step to step."""

import jax
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from dipod_jax.training.rollout import correlated_noise


@pytest.mark.parametrize("rho", [0.0, 0.8, 0.95])
def test_correlated_noise_stays_standard_normal_and_is_correlated_as_asked(rho):
    size, steps = 20_000, 60

    def step(x, key):
        x = correlated_noise(key, x, rho)
        return x, x

    start = jax.random.normal(jax.random.key(0), (size,))
    _, path = jax.jit(lambda: jax.lax.scan(step, start, jax.random.split(jax.random.key(1), steps)))()
    path = np.asarray(path, np.float64)
    last = path[-1]
    # standard errors at 20,000 independent chains: mean .007, deviation .005, correlation .007 at most
    assert_allclose((last.mean(), last.std()), (0.0, 1.0), atol=0.03)
    assert scipy.stats.kstest(last, "norm").pvalue > 1e-3
    for lag in (1, 3):
        assert_allclose(np.corrcoef(last, path[-1 - lag])[0, 1], rho**lag, atol=0.03)
