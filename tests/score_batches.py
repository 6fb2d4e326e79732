"""Random batches for objectives and regularisers, in float64, and the same as the library's scores in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from dipod_jax.types import FieldScores, Scores, Steps, make_scores


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


def field_scores(velocity, time=0.5, denoised=None) -> FieldScores:
    """The field of velocities (..., N, d) at draws of equal weights."""
    velocity = jnp.asarray(velocity, jnp.float32)
    equal = jnp.full(velocity.shape[:-1], 1.0 / velocity.shape[-2])
    time = jnp.broadcast_to(jnp.asarray(time, jnp.float32), equal.shape)
    return FieldScores(equal, time, velocity, velocity if denoised is None else denoised)


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


def assert_value_and_gradient(objective, formula, new, old, advantage, reference=None, **fixed):
    """The objective's loss is formula(**new), and so is its gradient in each of `new`.

    Args:
        formula: a float64 function of the arrays in `new`.
        new, old, reference: {"loss": ...} and where needed "move", "std" (which broadcasts to the moves) and "penalty".
        fixed: more of these, or "weight", the same for all three and without a gradient.
    """
    value, gradient = _by_field(objective, *jax.tree.map(jnp.float32, (new, old, advantage, reference, fixed)))
    assert_allclose(value, formula(**new), rtol=1e-5)
    for name, x in new.items():
        slope = numerical_gradient(lambda y, name=name: formula(**new | {name: y}), x)
        assert_allclose(gradient[name], slope, rtol=1e-3, atol=1e-7, err_msg=name)


@jax.jit
def _by_field(objective, new, old, advantage, reference, fixed):
    def made(loss, move=None, std=None, weight=None, penalty=None):
        steps = None if std is None else Steps(move, jnp.broadcast_to(std, move.shape))
        return make_scores(loss, weight=weight)._replace(steps=steps, penalty=penalty)

    others = [None if x is None else made(**x, **fixed) for x in (old, reference)]
    return jax.value_and_grad(lambda n: objective(made(**n, **fixed), *others, advantage)[0])(new)


def assert_on_all_sides(values, *kinks):
    """Some values lie before, some between and some beyond these kinks, and none so near that a difference crosses."""
    assert len(np.unique(np.digitize(values, kinks))) == len(kinks) + 1
    assert np.abs(np.subtract.outer(values, kinks)).min() > 1e-5


def assert_clipped_and_not(log_ratio, advantage, epsilon):
    """Ratios of good and of bad actions lie below, in and above the trust region."""
    for good in (True, False):
        chosen = np.broadcast_to((advantage > 0.0) == good, log_ratio.shape)
        assert_on_all_sides(np.exp(log_ratio[chosen]), 1 - epsilon, 1 + epsilon)
