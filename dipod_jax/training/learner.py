"""Learning from one rollout: epochs of minibatches, each an objective + DiPOD + value loss and one Adam step."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from dipod_jax.config import Config
from dipod_jax.objectives import ObjectiveFn, dipod_loss, log_ratio
from dipod_jax.policies import Critic, Policy
from dipod_jax.training.advantages import brax_gae, gae, standardise
from dipod_jax.training.state import LearnerState, Transitions


class Batch(NamedTuple):
    """What a gradient step is computed from; leading axes (M,), or (U, M) where advantages are computed in it."""

    obs: jax.Array  # (..., O) normalised
    action: jax.Array  # (..., d)
    prepared: Any  # (...) what the policy's loss needs besides, such as (t, eps) draws
    loss_old: jax.Array  # (..., N) under the acting parameters
    advantage: jax.Array  # (...) standardised; unused where computed in the minibatch
    value_target: jax.Array  # (...)
    reward: jax.Array  # (...) scaled
    last_obs: jax.Array  # (..., O) normalised true next observation
    terminated: jax.Array  # (...)
    truncated: jax.Array  # (...)


class Learner:
    """The update of policy and critic. Pure: `update(learner_state, transitions, key)`; closed over are only functions.

    With `axis_name`, transitions are one shard of the batch and gradients and statistics are averaged over that axis.
    """

    def __init__(
        self,
        config: Config,
        policy: Policy,
        critic: Critic,
        objective: ObjectiveFn,
        axis_name: str | None,
        shards: int = 1,
    ):
        self.config, self.policy, self.critic, self.objective = config, policy, critic, objective
        self.axis_name, self.shards = axis_name, shards
        self.optimizer = optax.scale_by_adam()

    def init_optimizer(self, params: dict[str, Any]) -> dict[str, Any]:
        """Adam's moments for policy and critic."""
        return {name: self.optimizer.init(tree) for name, tree in params.items()}

    def update(
        self, state: LearnerState, rollout: Transitions, key: jax.Array
    ) -> tuple[LearnerState, dict[str, jax.Array]]:
        """Learn from one rollout (T, B, ...); observation statistics move only afterwards, so the first ratio is 1.

        Returns:
            The new state and scalar metrics.
        """
        draws_key, shuffle_key, entropy_key = jax.random.split(key, 3)
        batch = self._prepare(state, rollout, draws_key)
        columns = batch.advantage.shape[-1]
        per_column = batch.advantage.size // columns
        num_minibatches = batch.advantage.size * self.shards // self.config.learning.minibatch_size
        size = columns // num_minibatches
        chex.assert_equal(size * num_minibatches * per_column, batch.advantage.size)

        def epoch(carry, keys):
            order = jax.random.permutation(keys[0], columns).reshape(num_minibatches, size)

            def minibatch(carry, inputs):
                indices, key = inputs
                part = jax.tree.map(lambda x: jnp.take(x, indices, axis=batch.advantage.ndim - 1), batch)
                return self._step(carry, part, state, key)

            return jax.lax.scan(minibatch, carry, (order, jax.random.split(keys[1], num_minibatches)))

        num_epochs = self.config.learning.num_epochs
        epoch_keys = jnp.stack(
            [jax.random.split(shuffle_key, num_epochs), jax.random.split(entropy_key, num_epochs)], 1
        )
        (params, optimizer), metrics = jax.lax.scan(epoch, (state.params, state.optimizer), epoch_keys)
        taken = metrics["skipped_updates"] == 0.0
        metrics = {name: _summarise(name, values, taken) for name, values in metrics.items()}
        metrics |= self._rollout_metrics(rollout, batch)
        return (
            state._replace(
                params=params,
                optimizer=optimizer,
                obs_statistics=state.obs_statistics.update(rollout.obs, self.axis_name),
            ),
            metrics,
        )

    def _prepare(self, state: LearnerState, rollout: Transitions, key: jax.Array) -> Batch:
        """Losses under the acting parameters, and advantages where they are computed once."""
        c = self.config.learning
        obs, next_obs = map(state.obs_statistics.normalise, (rollout.obs, rollout.next_obs))
        acting = state.params["policy"]
        prepared = self.policy.prepare(acting, key, obs, rollout.base_noise)
        batch = Batch(
            obs=obs,
            action=rollout.action,
            prepared=prepared,
            loss_old=self.policy.loss(acting, obs, rollout.action, prepared),
            advantage=jnp.zeros_like(rollout.reward),
            value_target=jnp.zeros_like(rollout.reward),
            reward=c.reward_scale * rollout.reward,
            last_obs=next_obs,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
        )
        if c.advantages == "minibatch":
            return jax.tree.map(partial(_segments, length=c.unroll_length), batch)
        advantage, target = self.advantages(state, rollout)
        batch = batch._replace(advantage=advantage, value_target=target)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

    def advantages(self, state: LearnerState, rollout: Transitions) -> tuple[jax.Array, jax.Array]:
        """Standardised advantages and value targets (T, B) of a rollout under the present critic."""
        c = self.config.learning
        obs, next_obs = map(state.obs_statistics.normalise, (rollout.obs, rollout.next_obs))
        value, next_value = (self.critic.value(state.params["critic"], o) for o in (obs, next_obs))
        reward, ends = c.reward_scale * rollout.reward, (rollout.terminated, rollout.truncated)
        advantage, target = gae(reward, value, next_value, *ends, discount=c.discount, gae_lambda=c.gae_lambda)
        return self._clip_advantage(standardise(advantage, self.axis_name)), target

    def _clip_advantage(self, advantage: jax.Array) -> jax.Array:
        bound = self.config.learning.advantage_clip
        return advantage if bound is None else jnp.clip(advantage, -bound, bound)

    def _step(self, carry, batch: Batch, state: LearnerState, key: jax.Array):
        """One gradient step of policy and critic on one minibatch."""
        params, optimizer = carry
        (_, metrics), gradient = jax.value_and_grad(self._loss, has_aux=True)(params, batch, state, key)
        if self.axis_name is not None:
            gradient, metrics = jax.lax.pmean((gradient, metrics), self.axis_name)
        metrics["policy_gradient_norm"] = optax.global_norm(gradient["policy"])
        finite = jnp.isfinite(optax.global_norm(gradient))
        bounds = {
            "policy": self.config.learning.policy_gradient_clip,
            "critic": self.config.learning.critic_gradient_clip,
        }
        step_size = learning_rate(state)
        new_params, new_optimizer = {}, {}
        for name, bound in bounds.items():
            clipped = gradient[name] if bound is None else _clip_by_norm(gradient[name], bound)
            updates, new_optimizer[name] = self.optimizer.update(clipped, optimizer[name])
            new_params[name] = jax.tree.map(lambda p, u: p - step_size * u, params[name], updates)
        metrics["skipped_updates"] = 1.0 - finite
        # A non-finite gradient would end the run; skip that step and count it.
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        return (keep(new_params, params), keep(new_optimizer, optimizer)), metrics

    def _loss(self, params: dict[str, Any], batch: Batch, state: LearnerState, key: jax.Array):
        c, tunables = self.config.learning, state.tunables
        value = self.critic.value(params["critic"], batch.obs)
        advantage, target, weight = batch.advantage, batch.value_target, jnp.ones_like(value)
        if c.advantages == "minibatch":
            fixed = jax.lax.stop_gradient(value)
            last_value = jax.lax.stop_gradient(self.critic.value(params["critic"], batch.last_obs[-1]))
            done = batch.terminated, batch.truncated
            advantage, target = brax_gae(
                batch.reward, fixed, last_value, *done, discount=c.discount, gae_lambda=c.gae_lambda
            )
            advantage = self._clip_advantage(standardise(advantage, self.axis_name))
            weight = 1.0 - batch.truncated
        loss_new = self.policy.loss(params["policy"], batch.obs, batch.action, batch.prepared)
        loss_new, loss_old, known = where_known(loss_new, batch.loss_old)
        policy_loss = self.objective(loss_new, loss_old, advantage, clip_epsilon=tunables.clip_epsilon)
        entropy = self.policy.entropy(params["policy"], batch.obs, jax.random.normal(key, batch.action.shape)).mean()
        value_loss = jnp.square((target - value) * weight).mean()
        bound = self.policy.bound_loss(params["policy"], batch.obs, batch.action, batch.prepared, loss_new)
        total = policy_loss + dipod_loss(bound, tunables.beta) - tunables.entropy_cost * entropy
        per_draw = self.config.objective == "fpo" and self.config.fpo.ratio == "per-draw"
        log_rho = log_ratio(loss_new, loss_old, average_draws=not per_draw, log_ratio_clip=None)
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "loss_change": -log_rho.mean(),
            "clip_fraction": (jnp.abs(jnp.expm1(log_rho)) > tunables.clip_epsilon).mean(),
            "first_ratio_error": jnp.abs(jnp.expm1(log_rho)).mean(),
            "unknown_likelihood": 1.0 - known.mean(),
        }
        return total + c.value_coefficient * value_loss, metrics

    def _rollout_metrics(self, rollout: Transitions, batch: Batch) -> dict[str, jax.Array]:
        ended = rollout.episode_length > 0
        sums = {
            "episodes": ended.sum().astype(jnp.float32),
            "return_sum": rollout.episode_return.sum(),
            "length_sum": rollout.episode_length.sum().astype(jnp.float32),
        }
        means = {
            self.policy.loss_name: jnp.nanmean(batch.loss_old),
            "action_magnitude": jnp.abs(rollout.action).mean(),
            "reward": rollout.reward.mean(),
        }
        if self.axis_name is not None:
            sums, means = jax.lax.psum(sums, self.axis_name), jax.lax.pmean(means, self.axis_name)
        some = jnp.maximum(sums["episodes"], 1.0)
        nan_if_none = lambda x: jnp.where(sums["episodes"] > 0, x / some, jnp.nan)
        return means | {
            "episodes": sums["episodes"],
            "episode_return": nan_if_none(sums["return_sum"]),
            "episode_length": nan_if_none(sums["length_sum"]),
        }


def where_known(loss_new: jax.Array, loss_old: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both losses with 0 where one of them is NaN, which makes the ratio 1 and the gradient 0 there; and where not.

    Args:
        loss_new, loss_old: (..., N).
    """
    known = ~(jnp.isnan(loss_new) | jnp.isnan(loss_old))
    return jnp.where(known, loss_new, 0.0), jnp.where(known, loss_old, 0.0), known


def learning_rate(state: LearnerState) -> jax.Array:
    """Adam's step size at this iteration: linear from the first to the last value."""
    t = state.tunables
    progress = jnp.clip(state.iteration / jnp.maximum(t.num_iterations - 1.0, 1.0), 0.0, 1.0)
    return t.learning_rate + progress * (t.final_learning_rate - t.learning_rate)


def _clip_by_norm(gradient: Any, bound: float) -> Any:
    norm = optax.global_norm(gradient)
    return jax.tree.map(lambda g: g * jnp.minimum(1.0, bound / jnp.maximum(norm, 1e-12)), gradient)


def _segments(x: jax.Array, length: int) -> jax.Array:
    """(T, B, ...) -> (U, T/U * B, ...): cut a rollout into segments of U steps, one column each."""
    t, b, *rest = x.shape
    return jnp.moveaxis(x.reshape(t // length, length, b, *rest), 0, 1).reshape(length, -1, *rest)


def _summarise(name: str, values: jax.Array, taken: jax.Array) -> jax.Array:
    """Reduce (epochs, minibatches): first ratio, sum of skipped steps, else the mean of those taken (NaN: none was)."""
    if name == "first_ratio_error":
        return values[0, 0]
    return values.sum() if name == "skipped_updates" else values.mean(where=taken)
