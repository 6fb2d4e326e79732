"""Exact measurements of a masked diffusion with few blanks: gap, entropy, and the direction of an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.diagnostics.vectors import cosine, norm
from dipod_jax.policies.masked import MaskedPolicy
from dipod_jax.types import Metrics, Params, Trace


class Samples(NamedTuple):
    """B answers of one policy, with their advantages."""

    prompt: jax.Array  # (B, L)
    action: jax.Array  # (B, L)
    trace: Trace  # (B, L) step that filled a position
    advantage: jax.Array  # (B,)


def measure_drift(
    policy: MaskedPolicy, params: Params, samples: Samples, loss_fn: Callable[[Params], jax.Array]
) -> Metrics:
    """The distance of the bounds from the likelihood, and of the objective's gradient from the true one.

    All in nats of a sequence, means over the policy's own samples (`MaskedPolicy.exact_bounds`):

    - `gap`: log-likelihood under random order minus the exact ELBO, >= 0; `gap_max` is the largest;
    - `eubo_gap`: SPG's upper bound per token, of order 1.5, minus the log-likelihood; negative where it is not a bound;
    - `renyi_gap`: the Renyi bound of order 2 minus the log-likelihood, >= 0;
    - `log_prob`: log-likelihood under random order;
    - `decoder_gap`: log-likelihood of the acting decoder minus the exact ELBO, of either sign;
    - `entropy`: entropy of the acting decoder: minus its mean log-likelihood;
    - `gradient_cosine`: cosine between the gradients of `loss_fn` and of `-mean A log p`, with the exact log p under
      random order;
    - `gradient_norm_ratio`: norm of the first gradient over that of the second.

    Args:
        samples: of these parameters.
        loss_fn: the objective on these samples, without regularisers.
    """

    def exact_loss(params):
        log_prob, _ = policy.exact(params, samples.prompt, samples.action)
        return -jnp.mean(samples.advantage * log_prob)

    exact = policy.exact_bounds(params, samples.prompt, samples.action)
    found, true = jax.grad(loss_fn)(params), jax.grad(exact_loss)(params)
    gap = exact.log_prob - exact.elbo
    return {
        "gap": gap.mean(),
        "gap_max": gap.max(),
        "eubo_gap": (exact.eubo - exact.log_prob).mean(),
        "renyi_gap": (exact.renyi - exact.log_prob).mean(),
        "log_prob": exact.log_prob.mean(),
        "decoder_gap": (exact.decoder_log_prob - exact.elbo).mean(),
        "entropy": -exact.decoder_log_prob.mean(),
        "gradient_cosine": cosine(found, true),
        "gradient_norm_ratio": norm(found) / norm(true),
    }
