"""Exact-gradient ascent: several methods from several initialisations as one vmapped scan."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dipod_jax.twotoken.bounds import Bounds, all_bounds
from dipod_jax.twotoken.model import REWARDS, TwoTokenDiffusion
from dipod_jax.twotoken.objectives import (
    advantages,
    cosine,
    dipod_weights,
    method_array,
    policy_gradient_weights,
    proxy_weights,
)

_OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}


class Gradients(NamedTuple):
    """What one parameter vector says: bounds (X,), advantage (X,), and gradients shaped like the parameters."""

    bounds: Bounds
    advantage: jax.Array
    proxy: Any
    dipod: Any
    policy: Any


def exact_gradients(bounds_fn, params, proxy, reward: jax.Array, baseline: str) -> Gradients:
    """Proxy, regulariser and true policy gradients at one parameter value.

    Args:
      bounds_fn: params -> Bounds of (X,).
      params: any pytree.
      proxy: () index into `options.PROXIES`.
      reward: (X,).
      baseline: one of `options.BASELINES`.

    Returns:
      Gradients; directions of ascent. `proxy` is without the beta term.
    """
    bounds, pullback = jax.vjp(bounds_fn, params)
    prob = jnp.exp(bounds.log_prob)
    advantage = advantages(prob, reward, baseline)
    return Gradients(
        bounds,
        advantage,
        proxy=pullback(proxy_weights(proxy, prob, advantage))[0],
        dipod=pullback(dipod_weights(prob))[0],
        policy=pullback(policy_gradient_weights(prob, advantage))[0],
    )


Array = jax.Array | np.ndarray


class Curves(NamedTuple):
    """What is recorded at every step; leading axes (method, init, step), X = 4 outputs.

    Step s is the state after s updates, so there are steps + 1 of them.
    """

    mean_gap: Array  # (M, I, S+1) E_pi[log pi - ELBO]
    max_gap: Array  # (M, I, S+1) over outputs
    gap: Array  # (M, I, S+1, 4) log pi - ELBO
    upper_gap: Array  # (M, I, S+1, 4) EUBO - log pi
    expected_reward: Array  # (M, I, S+1)
    gradient_cosine: Array  # (M, I, S+1) proxy (without beta) against the true policy gradient
    logits: Array  # (M, I, S+1, 6)
    probabilities: Array  # (M, I, S+1, 4) of the outputs


def _record(logits: jax.Array, gradients: Gradients, reward: jax.Array) -> Curves:
    bounds = gradients.bounds
    prob = jnp.exp(bounds.log_prob)
    return Curves(
        mean_gap=jnp.sum(prob * bounds.lower_gap),
        max_gap=jnp.max(bounds.lower_gap),
        gap=bounds.lower_gap,
        upper_gap=bounds.upper_gap,
        expected_reward=jnp.sum(prob * reward),
        gradient_cosine=cosine(gradients.proxy, gradients.policy),
        logits=logits,
        probabilities=prob,
    )


@partial(jax.jit, static_argnames=("eubo", "baseline", "optimizer", "steps"))
@partial(jax.vmap, in_axes=(0, 0, 0, None, None, None, None, None, None, None))
def _ascend(params, proxy, beta, reward, learning_rate, order, eubo, baseline, optimizer, steps) -> Curves:
    transform = _OPTIMIZERS[optimizer](learning_rate)

    def bounds_fn(params) -> Bounds:
        return all_bounds(TwoTokenDiffusion().apply(params), eubo, order)  # type: ignore[arg-type]

    def step(carry, _):
        params, opt_state = carry
        gradients = exact_gradients(bounds_fn, params, proxy, reward, baseline)
        # Optax descends, so the ascent direction enters with a minus sign.
        descent = jax.tree.map(lambda g, d: -(g + beta * d), gradients.proxy, gradients.dipod)
        updates, opt_state = transform.update(descent, opt_state, params)
        record = _record(params["params"]["logits"], gradients, reward)
        return (optax.apply_updates(params, updates), opt_state), record

    return jax.lax.scan(step, (params, transform.init(params)), length=steps + 1)[1]


def train(
    methods: Sequence[str],
    init_logits: Sequence[float],
    *,
    steps: int = 1500,
    learning_rate: float = 0.1,
    beta: float = 0.2,
    baseline: str = "on-policy",
    eubo: str = "spg",
    eubo_order: float = 1.5,
    optimizer: str = "sgd",
    reward: Sequence[float] = REWARDS,
) -> Curves:
    """Train every method from every initialisation with exact gradients, in float64.

    Each step ascends `sum_x pi(x) A(x) grad S(x) + beta sum_x pi(x) grad ELBO(x)`, the second term for the
    `+dipod` methods only (Eq. 7); pi and A are those of the current parameters and are not differentiated.

    Args:
      methods: M names of `options.METHODS`.
      init_logits: I common initial values of the six logits.
      steps: number of updates, >= 0.
      learning_rate: step size of the optimiser, > 0.
      beta: weight of the regulariser, >= 0.
      baseline: one of `options.BASELINES`.
      eubo: one of `options.EUBOS`.
      eubo_order: order of the EUBO, >= 1.
      optimizer: `sgd` (plain) or `adam` (optax's defaults).
      reward: of the four outputs, in the order of `model.OUTPUTS`.

    Returns:
      Curves of numpy arrays, leading axes (M, I, steps + 1).

    Raises:
      ValueError: for an unknown method or baseline. KeyError: for an unknown EUBO or optimiser.
    """
    num_methods, num_inits = len(methods), len(init_logits)
    with jax.enable_x64(True):
        proxy, has_dipod = np.array([method_array(m) for m in methods]).reshape(num_methods, 2).T
        logits = np.broadcast_to(np.asarray(init_logits, np.float64)[None, :, None], (num_methods, num_inits, 6))
        curves = _ascend(
            {"params": {"logits": jnp.asarray(logits.reshape(-1, 6))}},
            jnp.repeat(jnp.asarray(proxy, jnp.int32), num_inits),
            jnp.repeat(jnp.asarray(beta * has_dipod), num_inits),
            jnp.asarray(reward, jnp.float64),
            jnp.asarray(learning_rate, jnp.float64),
            jnp.asarray(eubo_order, jnp.float64),
            eubo,
            baseline,
            optimizer,
            steps,
        )
        return jax.tree.map(lambda x: np.asarray(x).reshape(num_methods, num_inits, *x.shape[1:]), curves)
