"""Feeding the drift meter from a rollout, and the controller that sets beta by what it reads."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dipod_jax.config import BetaControlConfig
from dipod_jax.diagnostics import DriftBatch, MeterSettings, drift_metrics
from dipod_jax.policies import FlowPolicy
from dipod_jax.training.learner import Learner, where_known
from dipod_jax.training.state import LearnerState, Transitions


def measure_drift(
    learner: Learner,
    policy: FlowPolicy,
    state: LearnerState,
    rollout: Transitions,
    shard_key: jax.Array,
    shared_key: jax.Array,
    num_samples: int,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """Drift metrics on a random slice of a rollout that the parameters have acted but not learned from yet.

    Args:
        rollout: (T, B, ...) of this shard.
        shard_key: this shard's own, to choose its slice; consumed.
        shared_key: the same on every shard; consumed.
        num_samples: transitions taken from this shard.
        axis_name: gather the slices of all shards of this axis; every shard then measures the same.

    Returns:
        Scalars named `drift/...` (see `diagnostics.drift_metrics`). The gradient compared with the true one is the
        objective's alone, without the beta term and the entropy bonus, and both have the advantages of the whole
        rollout (`Learner.advantages`), also where training computes them in each minibatch. With the loss form `elbo`,
        the CFM losses are the velocity's.
    """
    config = learner.config.policy
    draws_key, prepare_key, meter_key = jax.random.split(shared_key, 3)
    advantage, _ = learner.advantages(state, rollout)
    columns = (state.obs_statistics.normalise(rollout.obs), rollout.base_noise, rollout.action, advantage)
    rows = jax.random.permutation(shard_key, advantage.size)[:num_samples]
    columns = [x.reshape(advantage.size, *x.shape[2:])[rows] for x in columns]
    if axis_name is not None:
        columns = jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), columns)
    obs, base_noise, action, advantage = columns
    draws = policy.sample_draws(draws_key, advantage.shape)
    batch = DriftBatch(obs, base_noise, action, advantage, draws)
    params = state.params["policy"]
    prepared = policy.prepare(params, prepare_key, obs, base_noise)
    loss_old = jax.lax.stop_gradient(policy.loss(params, obs, action, prepared))

    def objective(p):
        loss_new, old, _ = where_known(policy.loss(p, obs, action, prepared), loss_old)
        return learner.objective(loss_new, old, advantage, clip_epsilon=state.tunables.clip_epsilon)

    return drift_metrics(
        policy.velocity,
        params,
        batch,
        meter_key,
        times=policy.times,
        loss_fn=objective,
        settings=MeterSettings(
            method=config.sampler,
            form="velocity" if config.loss_form == "elbo" else config.loss_form,
            reduction=config.reduction,
            placement=config.draws,
        ),
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
