"""Random batches for objectives and regularisers, in float64, and the same as the library's scores in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.types import Scores, make_scores


def random_batch(num_draws=8, size=64, scale=0.1, seed=0):
    """(new, old, advantage): losses (size, num_draws) that differ by `scale`, and advantages (size,)."""
    rng = np.random.default_rng(seed)
    old = rng.uniform(0.2, 2.0, (size, num_draws))
    return old + scale * rng.standard_normal(old.shape), old, rng.standard_normal(size)


def as_jax(*arrays):
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def scores(loss, **fields) -> Scores:
    """Scores of losses (..., N)."""
    return make_scores(jnp.asarray(loss, jnp.float32))._replace(**fields)


def loss_of(objective, new, old, advantage, reference=None):
    """The objective's loss of plain losses."""
    return _value_and_gradient(objective, *_arrays(new, old, advantage, reference))[0]


def gradient_of(objective, new, old, advantage, reference=None):
    """Its gradient in the new losses."""
    return _value_and_gradient(objective, *_arrays(new, old, advantage, reference))[1]


def _arrays(*arrays):
    return tuple(None if x is None else jnp.asarray(x, jnp.float32) for x in arrays)


@jax.jit
def _value_and_gradient(objective, new, old, advantage, reference):
    reference = None if reference is None else scores(reference)
    return jax.value_and_grad(lambda n: objective(scores(n), scores(old), reference, advantage)[0])(new)


def numerical_gradient(function, x, step=1e-6):
    """Central differences of a float64 function of an array."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        moved = [np.array(x), np.array(x)]
        for sign, y in zip((1, -1), moved, strict=True):
            y[index] += sign * step
        gradient[index] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return gradient
