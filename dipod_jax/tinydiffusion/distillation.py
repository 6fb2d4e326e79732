"""Self-distillation alone: what happens to a drifted policy when its own ELBO is ascended (Algorithm 1, step a)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.tinydiffusion.training import (
    Array,
    Runs,
    Settings,
    add_weights,
    ascend,
    exact_bounds_fn,
    to_jax,
    to_numpy,
    train_run,
    without_rise,
)
from dipod_jax.twotoken.bounds import Bounds
from dipod_jax.twotoken.objectives import dipod_weights


class DistilCurves(NamedTuple):
    """Self-distillation of a drifted policy, step by step: each (R, T)."""

    loss: Array  # E_ref[log pi_ref - ELBO], 0 when converged
    eubo_excess: Array  # E_ref[EUBO - log pi_ref], which ought to fall to 0 from above
    kl: Array  # KL(pi_ref | pi): the policy moved by so much
    expected_reward: Array


def drift_and_distil(settings: Settings, runs: Runs, distil_steps: int, rule: str) -> DistilCurves:
    """Train for `settings.steps` (Algorithm 2), then self-distil the result for `distil_steps`.

    `rule`: `elbo` ascends E_ref[ELBO]; `monotone` removes from each step the part that would raise E_ref[EUBO]
    (first order); `sandwich` ascends E_ref[ELBO] - E_ref[EUBO], which lowers the EUBO outright.

    Returns:
      DistilCurves of numpy arrays (R, distil_steps + 1).

    Raises:
      ValueError: for an unknown rule.
    """
    if rule not in ("elbo", "monotone", "sandwich"):
        raise ValueError(f"rule {rule!r} is unknown: choose from elbo, monotone, sandwich")
    with jax.enable_x64(True):
        return to_numpy(_drift_and_distil(settings, distil_steps, rule, to_jax(runs)))


@partial(jax.jit, static_argnums=(0, 1, 2))
@partial(jax.vmap, in_axes=(None, None, None, 0))
def _drift_and_distil(settings: Settings, distil_steps: int, rule: str, run: Runs) -> DistilCurves:
    _, params = train_run(settings, run)
    bounds_fn = exact_bounds_fn(settings)
    ref_log_prob = bounds_fn(params).log_prob
    ref_prob, zero = jnp.exp(ref_log_prob), jnp.zeros_like(ref_log_prob)
    lower, upper = dipod_weights(ref_prob), Bounds(zero, zero, ref_prob)

    def step(params, _):
        bounds, pullback = jax.vjp(bounds_fn, params)
        record = DistilCurves(
            loss=ref_prob @ (ref_log_prob - bounds.elbo),
            eubo_excess=ref_prob @ (bounds.eubo - ref_log_prob),
            kl=ref_prob @ (ref_log_prob - bounds.log_prob),
            expected_reward=jnp.exp(bounds.log_prob) @ run.reward,
        )
        (direction,) = pullback(add_weights(lower, upper, -1.0) if rule == "sandwich" else lower)
        if rule == "monotone":
            direction = without_rise(direction, pullback(upper)[0])
        return ascend(settings, params, direction), record

    return jax.lax.scan(step, params, length=distil_steps + 1)[1]
