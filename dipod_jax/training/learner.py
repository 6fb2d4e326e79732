"""Learning from one rollout: epochs of minibatches, each an objective, its regularisers, a value loss and one step."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from dipod_jax.advantages import ADVANTAGES, AdvantageEstimator, Estimate, Segment, standardise
from dipod_jax.config import Config, LearningConfig
from dipod_jax.policies import Critic, Policy
from dipod_jax.regularisers import Terms
from dipod_jax.training.sharding import Layout
from dipod_jax.training.soundness import keep_sound, without_gradient
from dipod_jax.training.state import LearnerState
from dipod_jax.types import Evidence, Metrics, Params, Scores, Transition, matched

RATE_FACTOR, RATE_RANGE = 1.5, (1e-5, 1e-2)  # of `--learning.kl-target`


class Batch(NamedTuple):
    """The data of one gradient step; leading axes (M,), or (M, U) for M segments if advantages are computed in the
    minibatch. M comes first, so that it stays spread over devices where a network flattens the axes."""

    segment: Segment  # observations normalised, rewards scaled
    sound: jax.Array  # (...) bool; the others have finite numbers and no weight
    action: jax.Array  # (..., d)
    evidence: Evidence  # (...) what a score needs besides
    old: Scores  # (...) under the acting policy, as `Scores.kept`
    reference: Scores | None  # (...) under the reference policy, likewise
    advantage: jax.Array  # (...) standardised; unused where computed in the minibatch
    value_target: jax.Array  # (...)
    value_weight: jax.Array  # (...)


def make_optimizer(options: LearningConfig) -> optax.GradientTransformation:
    """Adam for policy and critic, each after a clip of its own gradient's norm. A step whose gradient is not finite is
    left out and counted, since it would end the run. The caller applies the learning rate. Policy and critic are one
    vector each, because one operation for every small array would cost a tenth of a step."""

    def one(bound: float | None, b2: float) -> optax.GradientTransformation:
        clip = optax.identity() if bound is None else optax.clip_by_global_norm(bound)
        return optax.chain(clip, optax.scale_by_adam(b2=b2))

    parts: dict[Hashable, optax.GradientTransformation] = {
        "policy": one(options.policy_gradient_clip, 0.999),
        "critic": one(options.critic_gradient_clip, options.critic_second_moment_decay),
    }
    inner = optax.apply_if_finite(optax.partition(parts, {name: name for name in parts}), 2**31 - 1)

    def init(params: dict[str, Params]) -> optax.OptState:
        return inner.init(as_vectors(params))

    def update(gradient: Any, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        flat: Any
        flat, state = inner.update(as_vectors(gradient), state)
        return {name: ravel_pytree(part)[1](flat[name]) for name, part in gradient.items()}, state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def as_vectors(parts: dict[str, Params]) -> dict[str, jax.Array]:
    """Every part as one vector."""
    return {name: ravel_pytree(part)[0] for name, part in parts.items()}


class Learner:
    """The update of policy and critic. Pure: `update(learner_state, transitions, key)`; closed over are only functions
    and the layout of arrays over devices.
    """

    def __init__(self, config: Config, policy: Policy, critic: Critic, layout: Layout):
        self.config, self.policy, self.critic, self.layout = config, policy, critic, layout
        self.estimator = ADVANTAGES[config.learning.advantages]()
        self.optimizer = make_optimizer(config.learning)

    def update(self, state: LearnerState, rollout: Transition, key: jax.Array) -> tuple[LearnerState, Metrics]:
        """Learn from one rollout (T, B, ...); observation statistics move only afterwards, so the first ratio is 1.

        A transition that is not sound (`soundness`) takes part in nothing: its gradient and advantage are 0.

        Returns:
            The new state and scalar metrics.
        """
        draws_key, shuffle_key, entropy_key = jax.random.split(key, 3)
        kept, sound = keep_sound(rollout, state.obs_statistics)
        batch, draw_weight = self._prepare(state, kept, sound, draws_key)
        blocks, columns = batch.advantage.shape[:2]
        num_minibatches = blocks * columns // self.config.columns_per_minibatch

        def epoch(carry, keys):
            order = jax.vmap(shuffled, (0, None))(jax.random.split(keys[0], blocks), columns)
            order = jnp.moveaxis(order.reshape(blocks, num_minibatches, -1), 1, 0)

            def minibatch(carry, inputs):
                indices, key = inputs  # (blocks, M / blocks)
                part = jax.tree.map(lambda x: jax.vmap(lambda b, i: jnp.take(b, i, axis=0))(x, indices), batch)
                part = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), part)
                return self._step(carry, self.layout.rows(part), state, key)

            return jax.lax.scan(minibatch, carry, (order, jax.random.split(keys[1], num_minibatches)))

        num_epochs = self.config.learning.num_epochs
        keys = jnp.stack([jax.random.split(k, num_epochs) for k in (shuffle_key, entropy_key)], 1)
        start = state.params, state.optimizer, learning_rate(state)
        trained, metrics = jax.lax.scan(epoch, start, keys)
        params = cast(dict[str, Params], trained[0])
        taken = metrics["skipped_updates"] == 0.0
        metrics = {name: _summarise(name, values, taken) for name, values in metrics.items()}
        state = state._replace(
            params=params,
            optimizer=trained[1],
            tunables=state.tunables if self.config.learning.kl_target is None else state.tunables.with_rate(trained[2]),
            reference=self._move_reference(state.reference, params["policy"]),
            obs_statistics=state.obs_statistics.update(_swap(rollout.obs)),
        )
        metrics["skipped_in_a_row"] = state.optimizer.notfinite_count.astype(jnp.float32)  # pyright: ignore
        return state, metrics | self._rollout_metrics(kept, sound, batch.old, draw_weight)

    def _prepare(
        self, state: LearnerState, rollout: Transition, sound: jax.Array, key: jax.Array
    ) -> tuple[Batch, jax.Array]:
        """Scores under the acting parameters, and advantages where they are computed once; in blocks of environments
        (blocks, columns, ...), of which every minibatch takes equally many columns. And the draws' weights (N,)."""
        rollout, sound = jax.tree.map(_swap, (rollout, sound))  # environments first: the axis spread over devices
        segment, acting = self._segment(state, rollout), state.params["policy"]
        evidence = self.policy.prepare(acting, key, segment.obs, rollout.trace)
        score = lambda params: self.policy.score(params, segment.obs, rollout.action, evidence)
        nothing, old = jnp.zeros_like(rollout.reward), score(acting)
        draw_weight, old = old.weight, old.kept()
        batch = Batch(
            segment=segment,
            sound=sound,
            action=rollout.action,
            evidence=evidence,
            old=old._replace(known=old.known & sound[..., None]),
            reference=None if state.reference is None else score(state.reference).kept(),
            advantage=nothing,
            value_target=nothing,
            value_weight=nothing,
        )
        if not self.estimator.per_minibatch:
            critic = state.params["critic"]
            estimate = self._estimate_rows(critic, segment, sound, self.critic.value(critic, segment.obs))
            batch = batch._replace(**estimate._asdict())
        column = (self.config.learning.unroll_length,) if self.estimator.per_minibatch else ()
        blocks = self.layout.num_blocks(self.config)
        rows = self.layout.rows(jax.tree.map(lambda x: x.reshape(blocks, -1, *column, *x.shape[2:]), batch))
        return rows, draw_weight

    def _segment(self, state: LearnerState, rollout: Transition) -> Segment:
        obs, next_obs = map(state.obs_statistics.normalise, (rollout.obs, rollout.next_obs))
        reward = self.config.learning.reward_scale * rollout.reward
        return Segment(obs, next_obs, reward, rollout.terminated, rollout.truncated)

    def _estimate(
        self,
        estimator: AdvantageEstimator,
        critic_params: Params,
        segment: Segment,
        sound: jax.Array,
        value: jax.Array,
    ) -> Estimate:
        """Advantages standardised and clipped, value targets and their weights.

        An unsound step is given the reward that its value expects, and ends there: its error is 0, and the steps before
        it look no further than its value.
        """
        c = self.config.learning
        segment = segment._replace(
            reward=jnp.where(sound, segment.reward, value),
            terminated=segment.terminated | ~sound,
            truncated=segment.truncated & sound,
        )
        value_fn = partial(self.critic.value, critic_params)
        found = estimator(segment, value, value_fn, discount=c.discount, gae_lambda=c.gae_lambda)
        advantage = standardise(found.advantage)
        if c.advantage_clip is not None:
            advantage = jnp.clip(advantage, -c.advantage_clip, c.advantage_clip)
        return found._replace(
            advantage=jnp.where(sound, advantage, 0.0), value_weight=jnp.where(sound, found.value_weight, 0.0)
        )

    def _estimate_rows(self, critic_params: Params, segment: Segment, sound: jax.Array, value: jax.Array) -> Estimate:
        """Training's estimate of segments that lie along the second axis."""
        time_first = jax.tree.map(_swap, (segment, sound, value))
        return jax.tree.map(_swap, self._estimate(self.estimator, critic_params, *time_first))

    def advantages(self, state: LearnerState, rollout: Transition) -> jax.Array:
        """(T, B) standardised advantages of a whole rollout under the current critic, bootstrapped from the true next
        observation whichever estimator training uses. The drift meter weighs both of its gradients by them."""
        kept, sound = keep_sound(rollout, state.obs_statistics)
        segment, critic = self._segment(state, kept), state.params["critic"]
        value = self.critic.value(critic, segment.obs)
        return self._estimate(ADVANTAGES["iteration"](), critic, segment, sound, value).advantage

    def _move_reference(self, reference: Params | None, policy: Params) -> Params | None:
        if reference is None:
            return None
        decay = self.config.learning.reference_decay
        return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, reference, policy)

    def _step(self, carry, batch: Batch, state: LearnerState, key: jax.Array):
        """One gradient step of policy and critic on one minibatch."""
        params, optimizer, rate = carry
        (_, metrics), gradient = jax.value_and_grad(self._loss, has_aux=True)(params, batch, state, key)
        metrics["policy_gradient_norm"] = jnp.linalg.norm(as_vectors(gradient)["policy"])
        if (target := self.config.learning.kl_target) is not None:
            rate = adapted_rate(rate, metrics["kl"], target)
            metrics["learning_rate"] = rate
        updates, optimizer = self.optimizer.update(gradient, optimizer, params)
        params = optax.apply_updates(params, optax.tree.scale(-rate, updates))
        metrics["skipped_updates"] = 1.0 - optimizer.last_finite
        return (params, optimizer, rate), metrics

    def _loss(self, params: dict[str, Params], batch: Batch, state: LearnerState, key: jax.Array):
        tunables, segment = state.tunables, batch.segment
        value = self.critic.value(params["critic"], segment.obs)
        advantage, target, weight = batch.advantage, batch.value_target, batch.value_weight
        if self.estimator.per_minibatch:
            fixed = jax.lax.stop_gradient((params["critic"], value))
            advantage, target, weight = self._estimate_rows(fixed[0], segment, batch.sound, fixed[1])
        new = self.policy.score(params["policy"], segment.obs, batch.action, batch.evidence)
        new = without_gradient(new._replace(weight=None), batch.sound)._replace(weight=new.weight)
        old = batch.old._replace(weight=new.weight)
        reference = None if batch.reference is None else batch.reference._replace(weight=new.weight)
        new, old = matched(new, old)
        noise = jax.random.normal(key, (*advantage.shape, *self.policy.noise_shape))
        entropy = without_gradient(self.policy.entropy(params["policy"], segment.obs, noise), batch.sound)
        policy_loss, metrics = tunables.objective(new, old, reference, advantage)
        value_loss = jnp.square((target - value) * weight).mean()
        total = policy_loss + self.config.learning.value_coefficient * value_loss
        for regulariser in tunables.regularisers.values():
            total += regulariser(Terms(new, old, reference, entropy))
        metrics = metrics | {"policy_loss": policy_loss, "value_loss": value_loss}
        metrics["unknown_likelihood"] = 1.0 - new.known.mean()
        if self.config.learning.kl_target is not None:
            metrics["kl"] = tunables.objective.divergence(new, old).mean()
        if entropy is not None:
            metrics["entropy"] = entropy.mean()
        return total, metrics

    def _rollout_metrics(self, rollout: Transition, sound: jax.Array, old: Scores, draw_weight: jax.Array) -> Metrics:
        ended = rollout.episode_length > 0
        episodes = ended.sum().astype(jnp.float32)
        some = jnp.maximum(episodes, 1.0)
        nan_if_none = lambda x: jnp.where(episodes > 0, x.sum().astype(jnp.float32) / some, jnp.nan)
        return {
            self.policy.score_name: jnp.average(old.loss, weights=jnp.where(old.known, draw_weight, 0.0)),
            "action_magnitude": jnp.abs(rollout.action).mean(where=sound[..., None]),
            "reward": rollout.reward.mean(where=sound),
            "left_out_transitions": (~sound).sum().astype(jnp.float32),
            "episodes": episodes,
            "episode_return": nan_if_none(rollout.episode_return),
            "episode_length": nan_if_none(rollout.episode_length),
        }


def shuffled(key: jax.Array, size: int) -> jax.Array:
    """(size,) a random order of 0 .. size - 1, by one sort. `jax.random.permutation` sorts twice to rule out ties; here
    a tie, which occurs once in several updates, leaves two rows in order."""
    return jnp.argsort(jax.random.bits(key, (size,)))


def learning_rate(state: LearnerState) -> jax.Array:
    """Adam's step size at this iteration: linear from the first to the last value."""
    t = state.tunables
    progress = jnp.clip(state.iteration / jnp.maximum(t.num_iterations - 1.0, 1.0), 0.0, 1.0)
    return t.learning_rate + progress * (t.final_learning_rate - t.learning_rate)


def adapted_rate(rate: jax.Array, kl: jax.Array, target: float) -> jax.Array:
    """The learning rate of the next step: divided by 1.5 if the KL is over twice the target, multiplied by 1.5 if it is
    under half the target but not 0 (as at an iteration's first step), and kept in [1e-5, 1e-2] (rsl_rl's rule; arXiv
    2109.11978).

    Args:
        rate: () current step size.
        kl: () >= 0, mean over the minibatch; NaN changes nothing.
        target: > 0, in the KL's unit, which is not the same for all methods.
    """
    factor = jnp.where(kl > 2.0 * target, 1.0 / RATE_FACTOR, 1.0)
    factor = jnp.where((kl > 0.0) & (kl < 0.5 * target), RATE_FACTOR, factor)
    return jnp.clip(rate * factor, *RATE_RANGE)


def _swap(x: jax.Array) -> jax.Array:
    return jnp.swapaxes(x, 0, 1)


def _summarise(name: str, values: jax.Array, taken: jax.Array) -> jax.Array:
    """Reduce (epochs, minibatches): first ratio, sum of skipped steps, else the mean of those taken (NaN: none was)."""
    if name == "first_ratio_error":
        return values[0, 0]
    return values.sum() if name == "skipped_updates" else values.mean(where=taken)
