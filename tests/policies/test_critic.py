"""The value network."""

import jax
import jax.numpy as jnp
from numpy.testing import assert_allclose
from numpy_networks import OBS, batch, dense_layers, numpy_mlp

from dipod_jax.policies import Critic
from dipod_jax.policies.critic import CriticOptions


def test_critic_equals_a_numpy_network():
    critic = Critic(CriticOptions(hidden_sizes=(8, 8)), OBS)
    params = jax.tree.map(lambda x: x + 0.1, critic.init(jax.random.key(0)))
    obs = batch((4, 6))[0]
    value = critic.value(params, jnp.float32(obs))
    assert value.shape == (4, 6)
    assert_allclose(value, numpy_mlp(dense_layers(params["params"]), obs)[..., 0], atol=1e-5)
