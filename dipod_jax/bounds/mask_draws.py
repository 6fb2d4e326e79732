"""The masks at which a sampled bound of masked diffusion is evaluated: one signature, unbiased unless stated
otherwise."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from dipod_jax.bounds.draws import gauss_legendre

MaskPlacement = Literal[
    "uniform", "stratified", "antithetic", "coupled", "quadrature", "floor", "gdpo", "coupled-grpo", "one-step"
]
MASK_PLACEMENTS: tuple[str, ...] = get_args(MaskPlacement)
PAIRED = ("antithetic", "coupled")


class MaskDraws(NamedTuple):
    """The N masks at which the bound of a sequence is evaluated, shared by the old, new and reference scores.

    The estimate is `sum_n weight_n sum_i coefficient_ni log p(x_i | x without hidden_n)`, with `mask_draw_weights`.
    """

    hidden: jax.Array
    """(..., N, P) bool, positions whose token the network does not see."""
    coefficient: jax.Array
    """(..., N, P) factor on the log-probability of the token at a position; 0 where it is not scored."""


def mask_draw_weights(placement: str, num_draws: int) -> jax.Array:
    """(N,) weights of the draws in their mean: Gauss-Legendre's for quadrature and gdpo, else 1 / N."""
    if placement in ("quadrature", "gdpo"):
        return jnp.asarray(gauss_legendre(num_draws)[1], jnp.float32)
    return jnp.full(num_draws, 1.0 / num_draws)


def sample_mask_draws(
    key: jax.Array, blank: jax.Array, num_draws: int, *, placement: str, prompt_masking: float = 0.0
) -> MaskDraws:
    """Draw N masks of each sequence's L blanks.

    The ELBO of masked diffusion is `E_m (L / m) E_{m masked} sum_masked log p`, m uniform on 1..L. The placements:

    - `uniform`: m uniform, independent draws;
    - `stratified`: m = 1 + floor(L u_n) with u_n = (n + u) / N, one u for each sequence;
    - `antithetic`: pairs that share a random order of the blanks, m and L + 1 - m, masking it from either end;
    - `coupled`: pairs of a mask and its complement (coupled-GRPO, arXiv 2506.20639; ESPO, arXiv 2512.03759), m uniform
      on 0..L with factor (L + 1) / m: each token is scored exactly once in a pair;
    - `quadrature`: Gauss-Legendre nodes t_n, each blank masked with probability t_n, factor 1 / t_n. Exact in t for
      2 N >= L, else biased;
    - `floor`: as LLaDA's, d1's and DiPOD's released code has it, m = floor(u L), factor L / max(m, 1): biased. A
      short answer is scored too high, and the context in which all is masked is never drawn;
    - `gdpo`: as GDPO's released code has it, exactly floor(t_n L) masked at Gauss-Legendre nodes,
      factor 1 / t_n: biased for short answers;
    - `coupled-grpo`: as its released code has it, three masks: all blanks; each with probability r ~ U(.2, .8); those
      left out; factors 3/2, 3/2 / r and 3/2 / (1 - r). No ELBO: half of it is the one-step log-likelihood;
    - `one-step`: d1's (arXiv 2504.12216), all blanks masked, factor 1: the log-likelihood of revealing everything in
      one step, not an ELBO of more steps.

    Args:
      key: PRNG key, consumed.
      blank: (..., P) bool over the positions; at least one blank in each sequence.
      num_draws: N >= 1; even for `antithetic` and `coupled`, 3 for `coupled-grpo`.
      placement: one of `MASK_PLACEMENTS`.
      prompt_masking: probability with which each given token is hidden too, anew in every draw (d1: .15). It changes
        the context, so the result is no longer an ELBO.

    Returns:
      MaskDraws.

    Raises:
      ValueError: for an unknown placement or a number of draws that it does not support.
    """
    if placement not in MASK_PLACEMENTS:
        raise ValueError(f"placement {placement!r} is not one of {', '.join(MASK_PLACEMENTS)}")
    if placement in PAIRED and num_draws % 2:
        raise ValueError(f"{placement} draws come in pairs: num_draws must be even, got {num_draws}")
    if placement == "coupled-grpo" and num_draws != 3:
        raise ValueError(f"coupled-grpo draws are three: num_draws must be 3, got {num_draws}")
    mask_key, prompt_key = jax.random.split(key)
    hidden, factor = _place(mask_key, blank, num_draws, placement)
    coefficient = jnp.where(hidden, factor[..., None], 0.0)
    if prompt_masking > 0.0:
        dropped = jax.random.uniform(prompt_key, hidden.shape) < prompt_masking
        hidden = hidden | (dropped & ~blank[..., None, :])
    return MaskDraws(hidden, coefficient)


def _place(key, blank, num_draws, placement):
    """Masked blanks (..., N, P) and factors (..., N)."""
    length = blank.sum(-1, keepdims=True)  # (..., 1) L
    batch = blank.shape[:-1]
    count_key, order_key = jax.random.split(key)
    if placement == "one-step":
        hidden = jnp.broadcast_to(blank[..., None, :], (*batch, num_draws, blank.shape[-1]))
        return hidden, jnp.ones((*batch, num_draws))
    if placement == "coupled-grpo":
        share = jax.random.uniform(count_key, (*batch, 1), minval=0.2, maxval=0.8)
        chosen = jax.random.uniform(order_key, blank.shape) < share
        hidden = jnp.stack([blank, blank & chosen, blank & ~chosen], -2)
        return hidden, 1.5 / jnp.concatenate([jnp.ones_like(share), share, 1.0 - share], -1)
    if placement in ("quadrature", "gdpo"):
        nodes = jnp.asarray(gauss_legendre(num_draws)[0], jnp.float32)
        if placement == "gdpo":
            hidden = _first(order_key, blank, jnp.floor(nodes * length + 1e-6))
        else:
            uniform = jax.random.uniform(order_key, (*batch, num_draws, blank.shape[-1]))
            hidden = blank[..., None, :] & (uniform < nodes[:, None])
        return hidden, jnp.broadcast_to(1.0 / nodes, (*batch, num_draws))
    if placement in PAIRED:
        return _pairs(count_key, order_key, blank, num_draws, placement)
    if placement == "stratified":
        u = (jnp.arange(num_draws) + jax.random.uniform(count_key, (*batch, 1))) / num_draws
    else:
        u = jax.random.uniform(count_key, (*batch, num_draws))
    count = jnp.minimum(jnp.floor(u * length), length - 1) + (placement != "floor")
    return _first(order_key, blank, count), length / jnp.maximum(count, 1)


def _pairs(count_key, order_key, blank, num_draws, placement):
    """Masks and factors of N / 2 pairs over one random order each: from its start, and from its end."""
    half = (*blank.shape[:-1], num_draws // 2)
    length = blank.sum(-1, keepdims=True)
    complementary = placement == "coupled"
    sizes = length + complementary  # m is uniform on 0..L, or on 1..L
    count = jnp.minimum(jnp.floor(jax.random.uniform(count_key, half) * sizes), sizes - 1) + (not complementary)
    rank = _ranks(order_key, blank, num_draws // 2)
    other = length - count if complementary else length + 1 - count
    from_start = blank[..., None, :] & (rank < count[..., None])
    from_end = blank[..., None, :] & (rank >= (length - other)[..., None])
    both = jnp.concatenate([count, other], -1)
    return jnp.concatenate([from_start, from_end], -2), sizes / jnp.maximum(both, 1)


def _ranks(key: jax.Array, blank: jax.Array, num_draws: int) -> jax.Array:
    """(..., N, P) rank of each blank in a random order of the blanks, from 0; meaningless elsewhere."""
    u = jax.random.uniform(key, (*blank.shape[:-1], num_draws, blank.shape[-1]))
    u = jnp.where(blank[..., None, :], u, jnp.inf)
    return jnp.sum(u[..., None, :] < u[..., None], axis=-1)


def _first(key: jax.Array, blank: jax.Array, count: jax.Array) -> jax.Array:
    """(..., N, P) bool: the first `count` (..., N) blanks of a random order, independent for each draw."""
    return blank[..., None, :] & (_ranks(key, blank, count.shape[-1]) < count[..., None])


def draw_losses(token_log_prob: jax.Array, draws: MaskDraws) -> jax.Array:
    """(..., N) each draw's estimate of the negative bound, from log-probabilities (..., N, P) under its mask."""
    return -jnp.sum(draws.coefficient * token_log_prob, axis=-1)


def estimated_eubo_per_token(
    token_log_prob: jax.Array, coefficient: jax.Array, weight: jax.Array, order: jax.Array | float
) -> jax.Array:
    """SPG's EUBO from draws: `sum_i (1/b) log sum_n weight_n coefficient_ni p(x_i | .)^b` (SPG, arXiv 2510.09541).

    Summed over the tokens that are masked in at least one draw; SPG's code takes their mean times the number of all,
    which is more by the share that no draw masks (3.7 % with 4 draws). It is biased, as the logarithm of a mean is.

    Args:
      token_log_prob: (..., N, P) of the sequence's tokens under each draw's mask.
      coefficient: (..., N, P) of `MaskDraws`.
      weight: (N,) of `mask_draw_weights`.
      order: b > 0.

    Returns:
      (...) nats.
    """
    factor = coefficient * weight[:, None]
    seen = (factor > 0).any(-2)  # (..., P)
    # Double where: an unseen token gets weight 1 inside the log, so that its discarded branch has no nan gradient.
    factor = jnp.where(seen[..., None, :], factor, 1.0)
    log_mean = jax.nn.logsumexp(order * token_log_prob, axis=-2, b=factor)
    return jnp.sum(jnp.where(seen, log_mean, 0.0), axis=-1) / order
