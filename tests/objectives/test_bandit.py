"""Every objective over a chain, a terminal noise or a pair learns where one state's reward is, and the action without
noise goes there too."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from dipod_jax.objectives import OBJECTIVES
from dipod_jax.options import override
from dipod_jax.policies import POLICIES
from dipod_jax.types import matched

TARGET = jnp.array([0.8, -0.6])
BATCH, NUM_ITERATIONS, NUM_EPOCHS = 256, 60, 4
# Of the objective and the policy; trust regions as in the preset `cpu`, for these few updates.
OPTIONS = {
    "dppo": ({}, {}),
    "ddpo": ({"clip_epsilon": 0.05}, {}),
    "flow-grpo": ({"clip_epsilon": 0.05}, {}),
    "gsb-mdpo": ({}, {}),
    "policyflow": ({}, {"initial_noise": 0.3}),
    "genpo": ({}, {}),
    "reinflow": ({"clip_epsilon": 0.05}, {}),
}


def squared_distance(action):
    return jnp.square(action - TARGET).sum(-1)


@partial(jax.jit, static_argnums=0)
def train(policy, objective, key):
    """Policy parameters after some iterations of acting once and learning a few times from it."""
    optimizer, obs = optax.adam(3e-3), jnp.ones((BATCH, 1))

    def iteration(carry, key):
        params, moments, reference = carry
        act_key, prepare_key = jax.random.split(key)
        noise = jax.random.normal(act_key, (BATCH, *policy.noise_shape))
        action, trace = policy.sample(params, obs, noise)
        evidence = policy.prepare(params, prepare_key, obs, trace)
        reward = -squared_distance(action)
        advantage = (reward - reward.mean()) / (reward.std() + 1e-8)
        old = policy.score(params, obs, action, evidence)
        compared = policy.score(reference, obs, action, evidence)

        def loss(p):
            return objective(*matched(policy.score(p, obs, action, evidence), old), compared, advantage)[0]

        def epoch(carry, _):
            p, m = carry
            updates, m = optimizer.update(jax.grad(loss)(p), m)
            return (optax.apply_updates(p, updates), m), None

        (learned, moments), _ = jax.lax.scan(epoch, (params, moments), None, NUM_EPOCHS)
        return (learned, moments, params), reward.mean()

    start = policy.init(jax.random.key(0))
    (params, _, _), rewards = jax.lax.scan(
        iteration, (start, optimizer.init(start), start), jax.random.split(key, NUM_ITERATIONS)
    )
    return params, rewards


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_an_objective_finds_the_reward_of_one_state(name):
    of_objective, of_policy = OPTIONS[name]
    objective = override(OBJECTIVES[name](), of_objective)
    options = POLICIES[objective.policy](hidden_sizes=(32, 32), num_steps=5, num_draws=2, output_scale=1.0, **of_policy)
    policy = options.build(1, 2)
    params, rewards = train(policy, objective, jax.random.key(1))
    # E|a - target|^2 starts at |target|^2 = 1 and the actions' spread, which learning has to remove as well
    assert rewards[0] < -1.3
    assert rewards[-1] > -0.45
    at_zero, _ = policy.sample(params, jnp.ones((1, 1)), jnp.zeros((1, *policy.noise_shape)))
    assert squared_distance(at_zero)[0] < 0.2
