"""Self-distillation (DiPOD, Alg. 1): fit the policy to its own samples; the bound tightens, the policy stays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from dipod_jax.bounds import Draws, draw_weights
from dipod_jax.config import DistillationConfig
from dipod_jax.policies import FieldPolicy
from dipod_jax.training.sharding import Layout
from dipod_jax.training.soundness import keep_sound, sound_first
from dipod_jax.training.state import LearnerState
from dipod_jax.types import Params, Transition

_OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())


def init_distiller(params: Params) -> optax.OptState:
    """Adam's moments, apart from those of the policy's update."""
    return _OPTIMIZER.init(params)


def distil(
    config: DistillationConfig,
    policy: FieldPolicy,
    layout: Layout,
    learner: LearnerState,
    rollout: Transition,
    key: jax.Array,
) -> LearnerState:
    """n Adam steps of E[CFM loss] on a rollout's actions, or new ones in its states; fresh (t, eps) draws every step.

    Gradients are clipped at a norm of 1, as in DiPOD's control code. Critic, observation statistics and the policy's
    own optimiser stay as they are. With the target `pre-image`, eps is the base noise that the sampler turned into the
    action, and x_t lies on the straight line between the two. That keeps the spread which fresh noise loses to a
    sampler of few steps, but fits no conditional mean: the bound loosens (docs/bounds.md). A sampler of second order
    (`FlowOptions.sampler`) keeps both. Transitions that are not sound (`soundness`) are not taken, and a phase
    whose parameters end up non-finite is left out.

    Args:
        config: n, step size, minibatch, actions, target.
        rollout: (T, B, ...), acted by the policy that is to be kept, with these observation statistics.
        key: consumed.
    """
    rollout, sound = keep_sound(rollout, learner.obs_statistics)
    obs = learner.obs_statistics.normalise(rollout.obs)
    acting, action, trace = learner.params["policy"], rollout.action, rollout.trace
    if config.actions == "redrawn":
        key, noise_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (*action.shape[:-1], *policy.noise_shape))
        action, trace = policy.sample(acting, obs, noise)
    base_noise, action = policy.ends(acting, obs, action, trace)
    obs, action, base_noise = (x.reshape(-1, x.shape[-1]) for x in layout.whole((obs, action, base_noise)))
    size = min(config.minibatch_size, action.shape[0])
    sound = layout.whole(sound.reshape(-1))
    usable = sound_first(sound)

    weights = draw_weights(policy.cfm.placement, policy.cfm.num_draws)

    def step(carry, key):
        params, moments = carry
        index_key, draws_key = jax.random.split(key)
        rows = usable[jax.random.randint(index_key, (size,), 0, sound.sum())]
        x, a, noise = layout.rows((obs[rows], action[rows], base_noise[rows]))
        draws = policy.sample_draws(draws_key, (size,))
        if config.target == "pre-image":
            noise = jnp.where(jnp.isnan(noise), draws.eps[:, 0], noise)  # an action without a pre-image
            draws = Draws(draws.t, jnp.broadcast_to(noise[:, None], draws.eps.shape))
        gradient = jax.grad(lambda p: (policy.cfm_loss(p, x, a, draws) @ weights).mean())(params)
        updates, moments = _OPTIMIZER.update(gradient, moments)
        return (optax.apply_updates(params, optax.tree.scale(-config.learning_rate, updates)), moments), None

    start = learner.params["policy"], learner.distiller
    (params, moments), _ = jax.lax.scan(step, start, jax.random.split(key, config.num_steps))
    finite = jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves((params, moments))]).all()
    params, moments = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (params, moments), start)
    return learner._replace(params=learner.params | {"policy": params}, distiller=moments)
