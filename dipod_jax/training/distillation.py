"""Self-distillation (DiPOD, Alg. 1): fit the policy to its own samples; the bound tightens, the policy stays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dipod_jax.bounds import Draws
from dipod_jax.config import DistillationConfig
from dipod_jax.policies import FlowPolicy
from dipod_jax.training.state import LearnerState, Transitions

_ADAM = optax.scale_by_adam()
_GRADIENT_CLIP = optax.clip_by_global_norm(1.0)


def init_distiller(params: Any) -> Any:
    """Adam's moments, apart from those of the policy's update."""
    return _ADAM.init(params)


def distil(
    config: DistillationConfig,
    policy: FlowPolicy,
    learner: LearnerState,
    rollout: Transitions,
    key: jax.Array,
    axis_name: str | None = None,
) -> LearnerState:
    """n Adam steps of E[CFM loss] on a rollout's actions, or new ones in its states; fresh (t, eps) draws every step.

    Gradients are clipped at a norm of 1, as in DiPOD's control code. Critic, observation statistics and the policy's
    own optimiser stay as they are. With the target `pre-image`, eps is the base noise that the sampler turned into the
    action, and x_t lies on the straight line between the two. That keeps the spread which fresh noise loses to a
    sampler of few steps, but fits no conditional mean: the bound loosens (docs/bounds.md). A sampler of second order
    (`PolicyConfig.sampler`) keeps both.

    Args:
        config: n, step size, minibatch, actions, target.
        rollout: (T, B, ...), acted by the policy that is to be kept, with these observation statistics.
        key: consumed.
        axis_name: average gradients over the shards of this axis.
    """
    obs = learner.obs_statistics.normalise(rollout.obs)
    obs, action, base_noise = (x.reshape(-1, x.shape[-1]) for x in (obs, rollout.action, rollout.base_noise))
    if config.actions == "redrawn":
        key, noise_key = jax.random.split(key)
        base_noise = jax.random.normal(noise_key, base_noise.shape)
        action = policy.act(learner.params["policy"], obs, base_noise)
    size = min(config.minibatch_size, action.shape[0])

    def step(carry, key):
        params, moments = carry
        index_key, draws_key = jax.random.split(key)
        rows = jax.random.randint(index_key, (size,), 0, action.shape[0])
        draws = policy.sample_draws(draws_key, (size,))
        if config.target == "pre-image":
            draws = Draws(draws.t, jnp.broadcast_to(base_noise[rows][:, None], draws.eps.shape))
        gradient = jax.grad(lambda p: policy.cfm_loss(p, obs[rows], action[rows], draws).mean())(params)
        if axis_name is not None:
            gradient = jax.lax.pmean(gradient, axis_name)
        gradient, _ = _GRADIENT_CLIP.update(gradient, optax.EmptyState())
        updates, moments = _ADAM.update(gradient, moments)
        return (jax.tree.map(lambda p, u: p - config.learning_rate * u, params, updates), moments), None

    start = learner.params["policy"], learner.distiller
    (params, moments), _ = jax.lax.scan(step, start, jax.random.split(key, config.num_steps))
    return learner._replace(params=learner.params | {"policy": params}, distiller=moments)
