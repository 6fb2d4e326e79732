"""Feeding the drift meter from a rollout, and the controller that sets beta by what it reads."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dipod_jax.bounds import evaluation_times, sample_draws
from dipod_jax.config import BetaControlConfig
from dipod_jax.diagnostics import (
    DriftBatch,
    MeterSettings,
    acting_std,
    chain_metrics,
    conditional_metrics,
    drift_metrics,
)
from dipod_jax.policies import FieldPolicy
from dipod_jax.training.learner import Learner
from dipod_jax.training.soundness import keep_sound, sound_first
from dipod_jax.training.state import LearnerState
from dipod_jax.types import Metrics, Params, Transition, matched

# Actions whose likelihood under a chain is estimated, and draws of the chain's noises for each.
CHAIN_SAMPLES, CHAIN_DRAWS = 64, 16
# States in which a policy that acts by more than base noise is sampled, and actions in each.
ACTING_STATES, ACTING_SAMPLES = 256, 16


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
        Scalars named `drift/...` (see `diagnostics.drift_metrics`). Transitions that are not sound
        (`soundness`) are taken only where there are no others. The gradient compared with the true one is the
        objective's alone, without the regularisers, and both use the advantages of the whole rollout
        (`Learner.advantages`), even if training computes them in each minibatch. With the loss form `elbo`, the CFM
        losses are the velocity's. A policy that acts otherwise than by the deterministic flow of its velocity is
        measured as this flow, at the actions that were taken (`FieldPolicy.ends`); `diagnostics.chain` measures the
        rest, and `drift/acting_std` is the spread of the actions as they are drawn.
    """
    rows_key, draws_key, prepare_key, meter_key, chain_key = jax.random.split(key, 5)
    advantage = learner.advantages(state, rollout)
    rollout, sound = keep_sound(rollout, state.obs_statistics)
    columns = (state.obs_statistics.normalise(rollout.obs), rollout.trace, rollout.action, advantage)
    rows = jax.random.permutation(rows_key, advantage.size)
    rows = rows[sound_first(sound.reshape(-1)[rows])][:num_samples]
    take = lambda x: x.reshape(advantage.size, *x.shape[2:])[rows]
    obs, trace, action, advantage = jax.tree.map(take, learner.layout.whole(columns))
    form, reduction, placement, num_draws = policy.cfm
    grid = evaluation_times(policy.times, method=policy.method)
    shape = advantage.shape, num_draws, policy.action_size
    draws = sample_draws(draws_key, *shape, placement=placement, times=grid)  # t uniform also where training's is not
    params = state.params["policy"]
    batch = DriftBatch(obs, *policy.ends(params, obs, action, trace), advantage, draws)
    evidence = policy.prepare(params, prepare_key, obs, trace)
    score = lambda p: policy.score(p, obs, action, evidence)
    old = jax.lax.stop_gradient(score(params))
    reference = None if state.reference is None else jax.lax.stop_gradient(score(state.reference))

    def loss_fn(p: Params) -> jax.Array:
        new, acting = matched(score(p), old)
        return state.tunables.objective(new, acting, reference, advantage)[0]

    settings = MeterSettings(method=policy.method, form=form, reduction=reduction, placement=placement)
    metrics = drift_metrics(
        policy.velocity, params, batch, meter_key, times=policy.times, loss_fn=loss_fn, settings=settings
    )
    if policy.chain is not None:
        metrics |= chain_metrics(
            policy.chain, params, obs, trace, chain_key, num_samples=CHAIN_SAMPLES, num_draws=CHAIN_DRAWS
        )
    if policy.noise_shape != (policy.action_size,):
        states = obs[:ACTING_STATES]
        shape = (ACTING_SAMPLES, len(states), *policy.noise_shape)
        noise = jax.random.normal(jax.random.fold_in(chain_key, 1), shape)
        metrics["drift/acting_std"] = acting_std(policy.sample, params, states, noise)
    if policy.conditional is not None:
        velocity, scored, exact = policy.conditional.given_noise(params, obs, action, evidence)
        metrics |= conditional_metrics(velocity, scored, exact, advantage)
    return metrics


def control_beta(beta: jax.Array, gap: jax.Array, config: BetaControlConfig, action_size: int) -> jax.Array:
    """The next beta: times gap / target, within [1 / `release`, `rise`] and [minimum, maximum].

    Args:
        beta: (S,) current values.
        gap: (S,) measured mean of log pi - ELBO, nats per action.
        config: target in nats per action dimension.
        action_size: d.
    """
    factor = jnp.clip(gap / (config.gap_target * action_size), 1.0 / config.release, config.rise)
    # A gap that is not a number is a policy far beyond its bound: push as for a large one.
    factor = jnp.where(jnp.isnan(factor), config.rise, factor)
    return jnp.clip(beta * factor, config.minimum, config.maximum)
