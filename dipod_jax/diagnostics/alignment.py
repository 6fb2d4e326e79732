"""Does the objective's gradient still point towards higher return? It is compared with the exact policy gradient of the
same batch."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from dipod_jax.bounds import ConditionedVelocityFn, ExactLikelihood, log_prob_of_noise
from dipod_jax.diagnostics.vectors import cosine, noise_ceiling, norm
from dipod_jax.types import Params


def exact_policy_gradient(
    velocity_fn: ConditionedVelocityFn,
    params: Params,
    obs: Array,
    base_noise: Array,
    advantage: Array,
    *,
    times: Array,
    method: str,
    chunk_size: int,
) -> tuple[Any, Any, ExactLikelihood]:
    """Gradient of ``-E[A log pi_theta(a|s)]`` at fixed actions, on each half of the batch, in chunks.

    Invalid samples (a folded map, a path that is not finite) are left out of the mean; ``ExactLikelihood.valid``
    counts them.

    Args:
      velocity_fn, params: the policy that drew the actions.
      obs: (B, O); base_noise: (B, d); advantage: (B,), in random order. B even.
      times, method: the acting sampler.
      chunk_size: samples differentiated at once. The largest divisor of B/2 not above it is used.

    Returns:
      The gradients of the first and of the second half (pytrees like params), and the likelihood of all B actions.

    Raises:
      ValueError: if B is odd.
    """
    batch = obs.shape[0]
    if batch % 2:
        raise ValueError(f"batch of {batch} must be even: its halves are compared")
    chex.assert_shape(advantage, (batch,))
    size = next(c for c in range(min(chunk_size, batch // 2), 0, -1) if (batch // 2) % c == 0)

    def loss_fn(params: Params, obs: Array, noise: Array, advantage: Array) -> tuple[Array, ExactLikelihood]:
        exact = log_prob_of_noise(velocity_fn, params, obs, noise, times, method=method)
        return -jnp.sum(jnp.where(exact.valid, advantage * exact.log_prob, 0.0)), exact

    def add_chunk(total: Any, chunk: tuple[Array, Array, Array]) -> tuple[Any, ExactLikelihood]:
        gradient, exact = jax.grad(loss_fn, has_aux=True)(params, *chunk)
        return jax.tree.map(jnp.add, total, gradient), exact

    def one_half(chunks: tuple[Array, Array, Array]) -> tuple[Any, ExactLikelihood]:
        total, exact = jax.lax.scan(add_chunk, jax.tree.map(jnp.zeros_like, params), chunks)
        return jax.tree.map(lambda leaf: leaf / jnp.sum(exact.valid), total), exact

    split = jax.tree.map(lambda x: x.reshape(2, -1, size, *x.shape[1:]), (obs, base_noise, advantage))
    halves, exact = jax.lax.map(one_half, split)  # leaves (2, ...), likelihood leaves (2, chunks, size, ...)
    path = jnp.moveaxis(exact.path, 2, 0)  # (K+1, 2, chunks, size, d)
    flat = {name: leaf.reshape(batch, *leaf.shape[3:]) for name, leaf in exact._asdict().items() if name != "path"}
    likelihood = ExactLikelihood(path=path.reshape(path.shape[0], batch, -1), **flat)
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], halves) for i in range(2))
    return first, second, likelihood


def alignment_metrics(proxy_gradient: Any, first_half: Any, second_half: Any) -> dict[str, Array]:
    """``drift/gradient_cosine`` between the proxy gradient and the exact policy gradient of the batch, with its noise
    level.

    ``_ceiling`` is the cosine between the exact gradients of the two half batches, which shows the noise of the data;
    ``_ceiling_full`` converts it to the cosine that the full batch's gradient can reach with the true one
    (``noise_ceiling``). Proxy and exact gradient share their samples and hence part of their noise, so the cosine may
    exceed both.

    Args:
      proxy_gradient: of the objective's loss, to be minimised; None leaves out the comparisons with it.
      first_half, second_half: of ``exact_policy_gradient``.

    Returns:
      Flat dict of scalars; NaN if a gradient is zero or not finite.
    """
    exact = jax.tree.map(lambda a, b: 0.5 * (a + b), first_half, second_half)
    ceiling = cosine(first_half, second_half)
    metrics = {
        "drift/gradient_cosine_ceiling": ceiling,
        "drift/gradient_cosine_ceiling_full": noise_ceiling(ceiling),
        "drift/gradient_norm_exact": norm(exact),
    }
    if proxy_gradient is not None:
        metrics["drift/gradient_cosine"] = cosine(proxy_gradient, exact)
        metrics["drift/gradient_norm_proxy"] = norm(proxy_gradient)
    return metrics
