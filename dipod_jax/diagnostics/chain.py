"""Measurements of policies that do not act by the deterministic flow of their velocity: the likelihood of a chain's
action next to that of the flow, and how well a score given the base noise approximates the true one."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dipod_jax.bounds import ConditionedVelocityFn, Transitions, log_prob_of_action, standard_normal_log_prob
from dipod_jax.diagnostics.batch import masked_mean, masked_mean_and_error
from dipod_jax.diagnostics.vectors import cosine
from dipod_jax.types import Params, Steps

NEWTON_ITERATIONS = 10
NEWTON_TOLERANCE = 1e-4
LAST_DRAWS = 32  # chains that are drawn for each one that is inverted: they cost no inversion

StepFn = Callable[[Params, Array, Array, Array, Array, Transitions], Steps]
"""``step(params, obs (..., O), x (..., d), t, t_next, coefficients)``: the next state's distribution."""


class Chain(Protocol):
    """What this module needs of a policy that acts by Gaussian steps (`policies.ChainPolicy`)."""

    times: Array
    method: str
    transitions: Transitions

    def sample(self, params: Params, obs: Array, noise: Array) -> tuple[Array, Array]: ...

    @property
    def step(self) -> StepFn: ...

    @property
    def steps(self) -> Callable[[Params, Array, Array], Steps]: ...

    @property
    def velocity(self) -> ConditionedVelocityFn: ...


class ChainLikelihood(NamedTuple):
    """log p(a | s) of a chain's final action, bracketed by two estimates."""

    lower: Array
    """(B,) an estimate whose mean over actions is at most the true mean"""
    upper: Array
    """(B,) an estimate whose mean over actions is at least the true mean"""
    found: Array
    """(M + 1, B) whether a state was found that leads to the action under a draw of the rest"""


def chain_log_prob(
    chain: Chain, params: Params, obs: Array, path: Array, key: Array, *, num_draws: int
) -> ChainLikelihood:
    """The marginal likelihood of a chain's action, its start and all its noises integrated out.

    Given all of its states up to x_{j-1} and all noises after x_j, a chain is a map from x_j to the action like any
    sampler: log p(a | rest, s) is exact, by inversion, change of variables and the density of x_j, and p(a | s) = E
    p(a | rest, s). The mean of p over M fresh draws of the rest gives a log that is too low by Jensen; adding the rest
    that did lead to the action gives one that is too high (arXiv 1805.11183, section 3.1). Both converge to the truth
    as M grows, quickly if x_j contributes most of the action's spread: j is the largest contribution to N(0, .5^2)
    under its optimal field (`_broadest_state`). A draw for which no x_j is found counts as p = 0; everything is exact
    if every step is injective.

    Where the last step's noise is wide, p = E N(a; mu(x_{K-1}), std^2) over x_{K-1} is the better one, with
    `LAST_DRAWS` times as many draws. Of the two pairs the one that lies closer together, in the mean, is returned.

    Args:
      chain: the policy; params: that drew the paths.
      obs: (B, O).
      path: (B, K+1, d) from start to action.
      key: PRNG key, consumed.
      num_draws: M >= 1.
    """
    batch, num_states, size = path.shape
    first = _broadest_state(chain.times, chain.transitions)
    times, transitions = chain.times[first:], jax.tree.map(lambda c: c[first:], chain.transitions)

    def noisy_velocity(params: Params, packed: Array, x: Array, t: Array) -> Array:
        """The velocity with which Euler's step equals the chain's step, for the noises appended to obs."""
        index = jnp.argmin(jnp.abs(times[:-1] - t))
        t_next = times[1:][index]
        z = packed[:, obs.shape[-1] :].reshape(-1, num_states - 1 - first, size)[:, index]
        move, std, _ = chain.step(
            params, packed[:, : obs.shape[-1]], x, t, t_next, Transitions(*(c[index] for c in transitions))
        )
        return (move + std * z) / (t_next - t)

    tile = lambda x: jnp.broadcast_to(x, (num_draws + 1, *x.shape)).reshape(-1, *x.shape[1:])
    rows = tile(obs)
    _, fresh = chain.sample(params, rows[batch:], jax.random.normal(key, (num_draws * batch, num_states, size)))
    paths = jnp.concatenate([path, fresh])
    steps = chain.steps(params, rows, paths)
    noise = ((paths[:, 1:] - paths[:, :-1] - steps.move) / steps.std)[:, first:]
    exact = log_prob_of_action(
        noisy_velocity,
        params,
        jnp.concatenate([rows, noise.reshape(len(rows), -1)], axis=-1),
        tile(path[:, -1]),
        times,
        guess_path=jnp.moveaxis(tile(path[:, first:]), 1, 0),
        max_iterations=NEWTON_ITERATIONS,
        tolerance=NEWTON_TOLERANCE,
    )
    log_prob = exact.log_prob
    if first > 0:  # the density of x_j is not N(0, I)
        state, std = exact.path[0], jnp.broadcast_to(steps.std, steps.move.shape)[:, first - 1]
        z = (state - paths[:, first - 1] - steps.move[:, first - 1]) / std
        log_prob += standard_normal_log_prob(z) - jnp.log(std).sum(-1) - standard_normal_log_prob(state)
    log_prob = jnp.where(exact.valid, log_prob, -jnp.inf).reshape(num_draws + 1, batch)
    of_last = _last_step_log_prob(chain, params, obs, path, jax.random.fold_in(key, 1), LAST_DRAWS * num_draws)
    (lower, upper), (other_lower, other_upper) = ((_log_mean(x[1:]), _log_mean(x)) for x in (log_prob, of_last))
    wider = (upper - lower).mean() > (other_upper - other_lower).mean()
    lower, upper = jnp.where(wider, other_lower, lower), jnp.where(wider, other_upper, upper)
    return ChainLikelihood(lower, upper, exact.valid.reshape(num_draws + 1, batch))


def _log_mean(log_prob: Array) -> Array:
    """(B,) log of the mean over draws of exp of (M, B)."""
    return jax.nn.logsumexp(log_prob, axis=0) - np.log(log_prob.shape[0])


def _last_step_log_prob(chain: Chain, params: Params, obs: Array, path: Array, key: Array, num_draws: int) -> Array:
    """(M + 1, B) log p(a | x_{K-1}, s), first for the path's own x_{K-1}, then for those of M fresh chains."""
    shape = (num_draws, len(obs))
    rows = jnp.broadcast_to(obs, (*shape, obs.shape[-1])).reshape(-1, obs.shape[-1])
    _, fresh = chain.sample(params, rows, jax.random.normal(key, (len(rows), *path.shape[1:])))
    states = jnp.concatenate([path[None, :, -2], fresh[:, -2].reshape(*shape, -1)])
    everywhere = lambda x: jnp.broadcast_to(x, states.shape[:-1])
    t, t_next = everywhere(chain.times[-2]), everywhere(chain.times[-1])
    coefficients = jax.tree.map(lambda c: everywhere(c[-1]), chain.transitions)
    conditions = jnp.broadcast_to(obs, (*states.shape[:-1], obs.shape[-1]))
    move, std, _ = chain.step(params, conditions, states, t, t_next, coefficients)
    z = (path[:, -1] - states - move) / std
    return standard_normal_log_prob(z) - jnp.broadcast_to(jnp.log(std), z.shape).sum(-1)


def _broadest_state(times: Array, transitions: Transitions, spread: float = 0.5) -> int:
    """j in 0 .. K-1 whose own noise (of x_0 the start, of x_j step j-1's) brings most to the action's spread, for the
    optimal field of N(0, spread^2) (docs/bounds.md)."""
    t = np.asarray(times, np.float64)[:-1]
    a, b, std = (np.asarray(c, np.float64) for c in transitions)
    field = (t - (1.0 - t) * spread**2) / (np.square((1.0 - t) * spread) + np.square(t))
    gain_to_end = np.cumprod(np.abs(a + b * field)[::-1])[::-1]
    return int(np.argmax(np.concatenate([[1.0], std[:-1]]) * gain_to_end))


def chain_metrics(
    chain: Chain, params: Params, obs: Array, path: Array, key: Array, *, num_samples: int, num_draws: int
) -> dict[str, Array]:
    """The chain's likelihood compared with that of the deterministic sampler of the same velocity, at the chain's
    actions.

    ``drift/chain_minus_flow`` is the mean of log p_chain(a) - log pi(a): an estimate of KL(chain || flow), the distance
    between the policy that acts in training and the one evaluated without noise. Rows whose action the flow cannot
    produce are left out.

    Args:
      obs, path: (B, O), (B, K+1, d) in random order; the first ``num_samples`` are used.
      key: PRNG key, consumed.
      num_draws: M of ``chain_log_prob``.
    """
    obs, path = obs[:num_samples], path[:num_samples]
    found = chain_log_prob(chain, params, obs, path, key, num_draws=num_draws)
    flow = log_prob_of_action(
        chain.velocity,
        params,
        obs,
        path[:, -1],
        chain.times,
        method=chain.method,
        max_iterations=NEWTON_ITERATIONS,
        tolerance=NEWTON_TOLERANCE,
    )
    middle = 0.5 * (found.lower + found.upper)
    both = flow.valid & jnp.isfinite(middle)
    apart, error = masked_mean_and_error(middle - flow.log_prob, both)
    return {
        "drift/chain_log_prob": masked_mean(found.lower, both),
        "drift/chain_log_prob_upper": masked_mean(found.upper, both),
        "drift/chain_minus_flow": apart,
        "drift/chain_minus_flow_se": error,
        "drift/chain_found": jnp.mean(found.found),
    }


def conditional_metrics(
    params: Params, scored: Callable[[Params], Array], exact: Callable[[Params], Array], advantage: Array
) -> dict[str, Array]:
    """How well a log-ratio without the flow's Jacobian approximates the exact one, to first order around the acting
    parameters.

    ``drift/conditional_cosine`` compares the two gradients of E[A log p]. A step along the first changes each sample's
    scored log-ratio, and the true one by another amount: ``drift/ratio_slope`` is the regression of the scored on the
    true one (1 without bias), ``drift/ratio_correlation`` their correlation.

    Args:
      params: the acting parameters of the velocity.
      scored, exact: parameters to log p (B,) given the base noise, as scored and true.
      advantage: (B,).
    """
    gradient = lambda log_prob: jax.grad(lambda p: jnp.mean(advantage * log_prob(p)))(params)
    direction = gradient(scored)
    (_, of_score), (_, of_exact) = (jax.jvp(f, (params,), (direction,)) for f in (scored, exact))
    of_score, of_exact = of_score - of_score.mean(), of_exact - of_exact.mean()
    product = jnp.mean(of_score * of_exact)
    return {
        "drift/conditional_cosine": cosine(direction, gradient(exact)),
        "drift/ratio_slope": product / jnp.mean(jnp.square(of_exact)),
        "drift/ratio_correlation": product / jnp.sqrt(jnp.mean(jnp.square(of_exact)) * jnp.mean(jnp.square(of_score))),
    }
