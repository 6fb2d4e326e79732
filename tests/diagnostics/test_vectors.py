"""Gradients as vectors."""

import math

import jax
import jax.numpy as jnp
import pytest

from dipod_jax.diagnostics import cosine, noise_ceiling, norm


def test_cosine_and_norm_are_those_of_vectors_even_outside_the_range_of_squares():
    x = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray(4.0)}
    y = {"a": jnp.asarray([0.0, 1.0]), "b": jnp.asarray(1.0)}
    assert float(norm(x)) == pytest.approx(5.0)
    assert float(cosine(x, y)) == pytest.approx(4.0 / (5.0 * math.sqrt(2.0)))
    for scale in (1e30, 1e-30):
        scaled = jax.tree.map(lambda leaf, scale=scale: scale * leaf, x)
        assert float(norm(scaled)) == pytest.approx(5.0 * scale, rel=1e-5)
        assert float(cosine(scaled, y)) == pytest.approx(4.0 / (5.0 * math.sqrt(2.0)), rel=1e-5)
    assert math.isnan(float(cosine(jax.tree.map(jnp.zeros_like, x), y)))


def test_the_noise_ceiling_is_what_simulated_gradients_reach():
    truth = jnp.zeros(400).at[0].set(1.0)
    halves = truth + 0.05 * jax.random.normal(jax.random.key(0), (2000, 2, 400))
    half_cosine = jnp.mean(jax.vmap(lambda h: cosine(h[0], h[1]))(halves))
    full_cosine = jnp.mean(jax.vmap(lambda h: cosine(h.mean(0), truth))(halves))
    assert float(noise_ceiling(half_cosine)) == pytest.approx(float(full_cosine), abs=0.01)
    assert float(noise_ceiling(jnp.asarray(-0.3))) == 0.0
