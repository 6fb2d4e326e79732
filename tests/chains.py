"""Small chain policies and float64 loops over their steps."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

OBS, ACTION = 5, 3
SMALL = dict(hidden_sizes=(16, 12), num_steps=4, num_draws=6)


def make(options):
    """A policy of these options and parameters whose biases are not zero, so that a forgotten one shows."""
    policy = options.build(OBS, ACTION)
    return policy, jax.tree.map(lambda x: x + 0.1, policy.init(jax.random.key(0)))


def acted(policy, params, shape=(7,), seed=1):
    """(obs, action, trace, evidence) of actions that these parameters take."""
    keys = jax.random.split(jax.random.key(seed), 3)
    obs = jax.random.normal(keys[0], (*shape, OBS))
    action, trace = policy.sample(params, obs, jax.random.normal(keys[1], (*shape, *policy.noise_shape)))
    return obs, action, trace, policy.prepare(params, keys[2], obs, trace)


def moved(params, scale=1.05):
    """Other parameters nearby."""
    return jax.tree.map(lambda x: scale * x, params)


def assert_first_ratio_is_one(objective, policy, params):
    """At the acting parameters no ratio differs from 1, and a good action is made likelier."""
    obs, action, _, evidence = acted(policy, params, (64,))
    advantage = jax.random.normal(jax.random.key(5), (64,))
    old = jax.jit(policy.score)(params, obs, action, evidence)
    loss = lambda p: objective(policy.score(p, obs, action, evidence), old, old, advantage)
    gradient, metrics = jax.grad(loss, has_aux=True)(params)
    assert_allclose(metrics["first_ratio_error"], 0.0, atol=1e-5)
    likelihood = lambda p: -(advantage * policy.score(p, obs, action, evidence).loss.sum(-1)).mean()
    ascent = jax.grad(likelihood)(params)
    inner = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(ascent), strict=True))
    assert inner < 0.0


def numpy_clip(log_ratio, advantage, epsilon):
    """-min(rho A, clip(rho) A) of two scalars."""
    rho = np.exp(log_ratio)
    return -min(rho * advantage, min(max(rho, 1 - epsilon), 1 + epsilon) * advantage)
