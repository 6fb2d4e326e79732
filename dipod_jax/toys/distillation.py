"""Self-distillation: its effect on a drifted policy, and between updates (DiPOD's Algorithm 1)."""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.toys.bounds import Bounds
from dipod_jax.toys.methods import add_weights, advantages, dipod_weights, proxy_weights
from dipod_jax.toys.training import (
    Array,
    Curves,
    Run,
    Settings,
    draw_key,
    exact_bounds_fn,
    init_params,
    measure,
    scan_records,
    train_run,
    without_rise,
)
from dipod_jax.types import Params

Rule = Literal["elbo", "monotone", "sandwich"]


class DistilCurves(NamedTuple):
    """Self-distillation of a drifted policy, step by step: each (R, T)."""

    loss: Array  # E_ref[log pi_ref - ELBO], 0 when converged
    eubo_excess: Array  # E_ref[EUBO - log pi_ref], which ought to fall to 0 from above
    kl: Array  # KL(pi_ref | pi): the policy moved by so much
    expected_reward: Array


def drift_and_distil(settings: Settings, runs: Run, distil_steps: int, rule: Rule) -> DistilCurves:
    """Train for `settings.steps` (Algorithm 2), then self-distil the result for `distil_steps`.

    `rule`: `elbo` ascends E_ref[ELBO]; `monotone` removes from each step the part that would raise E_ref[EUBO]
    (first order); `sandwich` ascends E_ref[ELBO] - E_ref[EUBO], which lowers the EUBO outright.

    Returns:
      DistilCurves of numpy arrays (R, distil_steps + 1).

    Raises:
      ValueError: for an unknown rule.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule {rule!r} is unknown: choose from {', '.join(get_args(Rule))}")
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _drift_and_distil(settings, distil_steps, rule, runs))


@partial(jax.jit, static_argnums=(1, 2))
@partial(jax.vmap, in_axes=(None, None, None, 0))
def _drift_and_distil(settings: Settings, distil_steps: int, rule: Rule, run: Run) -> DistilCurves:
    _, params = train_run(settings, run, init_params(settings, run), lambda params: None)
    bounds_fn = exact_bounds_fn(settings)
    reference = bounds_fn(params)
    upper = Bounds(jnp.zeros_like(reference.prob), jnp.zeros_like(reference.prob), reference.prob)

    def step(params, _):
        bounds, pullback = jax.vjp(bounds_fn, params)
        record = DistilCurves(
            loss=reference.prob @ (reference.log_prob - bounds.elbo),
            eubo_excess=reference.prob @ (bounds.eubo - reference.log_prob),
            kl=reference.prob @ (reference.log_prob - bounds.log_prob),
            expected_reward=bounds.prob @ run.reward,
        )
        lower = dipod_weights(bounds, reference.prob)
        (direction,) = pullback(add_weights(lower, upper, -1.0) if rule == "sandwich" else lower)
        if rule == "monotone":
            direction = without_rise(direction, pullback(upper)[0])
        return _ascend(settings, params, direction), record

    return jax.lax.scan(step, params, length=distil_steps + 1)[1]


def _ascend(settings: Settings, params: Params, direction: Params) -> Params:
    """One plain gradient step along a direction of ascent."""
    return jax.tree.map(lambda p, g: p + settings.learning_rate * g, params, direction)


def train_interleaved(settings: Settings, runs: Run) -> Curves:
    """Algorithm 1: distil pi_ref = pi to `tolerance`, take n = `num_updates` proxy updates, repeat.

    Distillation ascends `sum_x pi_ref(x) ELBO(x)` with plain gradient steps of the same size, and each of them counts
    as an update. It has converged when `E_ref[log pi_ref - ELBO] = KL(pi_ref | pi) + E_ref[D^L] < tolerance`, which
    requires both a tight bound and an unchanged policy. The runs' beta is ignored; the bounds are exact.

    Args, returns: as `training.train`.

    Raises:
      ValueError: for an estimator other than `exact`.
    """
    if settings.estimator != "exact":
        raise ValueError(f"estimator {settings.estimator!r}: Algorithm 1 has exact bounds only")
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _train_interleaved(settings, runs))


class _Interleaved(NamedTuple):
    params: Any
    ref_log_prob: jax.Array  # (X,) of pi_ref
    updates_left: jax.Array  # () policy updates before the next distillation; 0: distilling
    distilled: jax.Array  # () distillation steps so far


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def _train_interleaved(settings: Settings, run: Run) -> Curves:
    bounds_fn = exact_bounds_fn(settings)

    def update(state: _Interleaved, step) -> _Interleaved:
        bounds, pullback = jax.vjp(bounds_fn, state.params)
        ref_prob = jnp.exp(state.ref_log_prob)
        converged = ref_prob @ (state.ref_log_prob - bounds.elbo) < settings.tolerance
        distil = (state.updates_left == 0) & ~converged
        left = jnp.where(distil, 0, jnp.where(state.updates_left == 0, run.num_updates, state.updates_left) - 1)
        advantage = advantages(bounds.prob, run.reward, settings.baseline)
        policy_weights = proxy_weights(run.proxy, bounds, advantage)
        weights = jax.tree.map(partial(jnp.where, distil), dipod_weights(bounds, ref_prob), policy_weights)
        params = _ascend(settings, state.params, pullback(weights)[0])
        # After the last policy update the policy reached becomes the next reference.
        finished = ~distil & (left == 0)
        ref_log_prob = jnp.where(finished, bounds_fn(params).log_prob, state.ref_log_prob)
        return _Interleaved(params, ref_log_prob, left, state.distilled + distil)

    def measure_fn(state: _Interleaved) -> Curves:
        return measure(settings, run, state.params, draw_key(run), state.distilled)

    params, zero = init_params(settings, run), jnp.zeros((), jnp.int32)
    start = _Interleaved(params, bounds_fn(params).log_prob, zero, zero)
    curves, _ = scan_records(settings, update, measure_fn, start)
    return curves._replace(distilling=jnp.diff(curves.distilling, prepend=0) / settings.record_every)
