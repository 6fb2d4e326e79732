"""The value network, and which policy an objective trains."""

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose
from numpy_networks import ACTION, OBS, batch, dense_layers, numpy_mlp

from dipod_jax.objectives import OBJECTIVES
from dipod_jax.policies import POLICIES, Critic
from dipod_jax.policies.critic import CriticOptions
from dipod_jax.policies.exact_flow import ExactFlowPolicy
from dipod_jax.policies.flow import FlowPolicy
from dipod_jax.policies.gaussian import GaussianPolicy


def test_critic_equals_a_numpy_network():
    critic = Critic(CriticOptions(hidden_sizes=(8, 8)), OBS)
    params = jax.tree.map(lambda x: x + 0.1, critic.init(jax.random.key(0)))
    obs = batch((4, 6))[0]
    value = critic.value(params, jnp.float32(obs))
    assert value.shape == (4, 6)
    assert_allclose(value, numpy_mlp(dense_layers(params["params"]), obs)[..., 0], atol=1e-5)


@pytest.mark.parametrize(
    ("objective", "kind"), [("fpo", FlowPolicy), ("exact-ppo", ExactFlowPolicy), ("ppo", GaussianPolicy)]
)
def test_the_objective_decides_the_kind_of_policy(objective, kind):
    assert type(POLICIES[OBJECTIVES[objective].policy]().build(OBS, ACTION)) is kind
