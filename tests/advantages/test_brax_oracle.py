"""Brax's own advantages beside ours."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from dipod_jax.advantages.brax import brax_gae


@pytest.mark.slow
@pytest.mark.parametrize(("gamma", "lam"), [(0.995, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_brax_gae_is_the_compute_gae_of_brax(gamma, lam):
    from brax.training.agents.ppo.losses import compute_gae

    rng = np.random.default_rng(3)
    reward, value = rng.standard_normal((2, 50, 32)).astype(np.float32)
    last_value = rng.standard_normal(32).astype(np.float32)
    end = rng.random((50, 32))
    end[-1, :8] = np.repeat([0.05, 0.15], 4)
    terminated, truncated = end < 0.1, (end > 0.1) & (end < 0.2)
    target, advantage = compute_gae(
        jnp.float32(truncated), jnp.float32(terminated), reward, value, last_value, lambda_=lam, discount=gamma
    )
    ours = brax_gae(reward, value, last_value, terminated, truncated, discount=gamma, gae_lambda=lam)
    assert_allclose(ours[0], advantage, atol=1e-5)
    assert_allclose(ours[1], target, atol=1e-5)
    assert np.abs(advantage).max() > 1.0
