"""The inverse of the sampler finds every row by itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dipod_jax.bounds import integrate, invert, time_grid

TIMES = time_grid(4, kind="uniform")


def bent(params, obs, x, t):
    return jnp.sin(2.0 * x) + 0.5 * x + t[..., None]


@pytest.mark.parametrize("solver", ["newton", "fixed-point"])
def test_a_row_that_is_found_stays_whatever_its_neighbours_still_look_for(solver):
    """With a tolerance of 5 %, one more correction would move it visibly."""
    obs, noise = jnp.zeros((6, 1)), jnp.linspace(-1.5, 1.5, 6)[:, None]
    action = integrate(lambda x, t: bent(None, obs, x, t), noise, TIMES, method="euler")
    find = lambda action: invert(bent, None, obs, action, TIMES, solver=solver, max_iterations=8, tolerance=0.05)
    among_found, among_lost = find(action), find(action.at[2].set(jnp.nan))
    others = np.array([0, 1, 3, 4, 5])
    assert among_found.converged.all() and not among_lost.converged[2]
    assert among_lost.iterations == 4 * 8 > among_found.iterations  # the lost row keeps all of them at it
    assert_array_equal(among_lost.path[:, others], among_found.path[:, others])
    error = np.abs(among_found.path[0] - noise)
    assert error.max() > 0.01  # a correction more would have moved them
