"""Feeding the drift meter from a rollout, and the controller that sets beta by what it reads."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dipod_jax.config import BetaControlConfig
from dipod_jax.diagnostics import DriftBatch, MeterSettings, drift_metrics
from dipod_jax.policies import FieldPolicy
from dipod_jax.training.learner import Learner
from dipod_jax.training.state import LearnerState
from dipod_jax.types import Metrics, Transition, matched


def measure_drift(
    learner: Learner,
    policy: FieldPolicy,
    state: LearnerState,
    rollout: Transition,
    key: jax.Array,
    num_samples: int,
) -> Metrics:
    """Drift metrics on a random slice of a rollout that the parameters have acted but not learned from yet.

    Args:
        rollout: (T, B, ...).
        key: consumed.
        num_samples: transitions taken, even.

    Returns:
        Scalars named `drift/...` (see `diagnostics.drift_metrics`). The gradient compared with the true one is the
        objective's alone, without the regularisers, and both have the advantages of the whole rollout
        (`Learner.advantages`), also where training computes them in each minibatch. With the loss form `elbo`, the CFM
        losses are the velocity's.
    """
    rows_key, draws_key, prepare_key, meter_key = jax.random.split(key, 4)
    advantage = learner.advantages(state, rollout)
    columns = (state.obs_statistics.normalise(rollout.obs), rollout.trace, rollout.action, advantage)
    rows = jax.random.permutation(rows_key, advantage.size)[:num_samples]
    take = lambda x: x.reshape(advantage.size, *x.shape[2:])[rows]
    obs, trace, action, advantage = jax.tree.map(take, learner.layout.whole(columns))
    draws = policy.sample_draws(draws_key, advantage.shape)
    params = state.params["policy"]
    batch = DriftBatch(obs, *policy.ends(params, obs, action, trace), advantage, draws)
    evidence = policy.prepare(params, prepare_key, obs, trace)
    score = lambda p: policy.score(p, obs, action, evidence)
    old = jax.lax.stop_gradient(score(params))
    reference = None if state.reference is None else jax.lax.stop_gradient(score(state.reference))
    loss_fn = lambda p: state.tunables.objective(*matched(score(p), old), reference, advantage)[0]
    form, reduction, placement, _ = policy.cfm
    settings = MeterSettings(method=policy.method, form=form, reduction=reduction, placement=placement)
    return drift_metrics(
        policy.velocity, params, batch, meter_key, times=policy.times, loss_fn=loss_fn, settings=settings
    )


def control_beta(beta: jax.Array, gap: jax.Array, config: BetaControlConfig, action_size: int) -> jax.Array:
    """The next beta: times gap / target, within [1 / `release`, `rise`] and [minimum, maximum].

    Args:
        beta: (S,) present values.
        gap: (S,) measured mean of log pi - ELBO, nats per action.
        config: target in nats per action dimension.
        action_size: d.
    """
    factor = jnp.clip(gap / (config.gap_target * action_size), 1.0 / config.release, config.rise)
    # A gap that is not a number is a policy far beyond its bound: push as for a large one.
    factor = jnp.where(jnp.isnan(factor), config.rise, factor)
    return jnp.clip(beta * factor, config.minimum, config.maximum)
