"""Gradients as vectors: norm, cosine, and the highest cosine that noise allows."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def norm(tree: Any) -> Array:
    """Euclidean norm of a pytree, computed so that squared entries cannot overflow float32."""
    largest = jnp.maximum(_largest(tree), jnp.finfo(jnp.float32).tiny)
    scaled = jax.tree.map(lambda leaf: leaf / largest, tree)
    return largest * jnp.sqrt(_inner(scaled, scaled))


def cosine(x: Any, y: Any) -> Array:
    """Cosine of two pytrees of the same structure, in [-1, 1]; NaN if one of them is zero or not finite."""
    norms = norm(x), norm(y)
    x, y = (jax.tree.map(lambda leaf, n=n: leaf / n, tree) for tree, n in zip((x, y), norms, strict=True))
    return _inner(x, y)


def noise_ceiling(half_cosine: Array) -> Array:
    """The cosine of the full-batch gradient with the true one, from the cosine of two half-batch gradients: ``sqrt(2 c
    / (1 + c))``.

    Spearman-Brown: with signal S and half-batch noise V, c = S/(S+V) in expectation and the full batch has noise V/2,
    so its cosine with the truth is sqrt(S/(S+V/2)). It is 0 for c <= 0, where the halves have no common direction.
    """
    positive = jnp.maximum(half_cosine, 0.0)
    return jnp.sqrt(2.0 * positive / (1.0 + positive))


def _inner(x: Any, y: Any) -> Array:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, x, y)), start=jnp.zeros(()))


def _largest(tree: Any) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))
