"""A task of one's own, as a reader of the README would write it: push a cart to the middle of its rail."""

import jax
import jax.numpy as jnp
import mujoco
from ml_collections import config_dict
from mujoco import mjx
from mujoco_playground import MjxEnv, State
from mujoco_playground._src import mjx_env

XML = """
<mujoco>
  <worldbody>
    <body name="cart">
      <joint name="rail" type="slide" axis="1 0 0" damping="1"/>
      <geom type="box" size=".1 .1 .1" mass="1"/>
    </body>
  </worldbody>
  <actuator><motor joint="rail" gear="10"/></actuator>
</mujoco>"""


class Cart(MjxEnv):
    xml_path = ""
    action_size = 1
    mj_model = property(lambda self: self._mj_model)
    mjx_model = property(lambda self: self._mjx_model)

    def __init__(self, impl="jax"):
        super().__init__(config_dict.create(ctrl_dt=0.02, sim_dt=0.01))
        self._mj_model = mujoco.MjModel.from_xml_string(XML)
        self._mj_model.opt.timestep = self.sim_dt
        self._mjx_model = mjx.put_model(self._mj_model, impl=impl)

    def reset(self, rng):
        position = jax.random.uniform(rng, (1,), minval=-1.0, maxval=1.0)
        data = mjx_env.make_data(self.mj_model, qpos=position, impl=self.mjx_model.impl.value, naconmax=16, njmax=8)
        data = mjx.forward(self.mjx_model, data)
        return State(data, self._observe(data), jnp.zeros(()), jnp.zeros(()), {}, {})

    def step(self, state, action):
        data = mjx_env.step(self.mjx_model, state.data, action, self.n_substeps)
        reward = 1.0 - jnp.abs(data.qpos[0])
        return state.replace(data=data, obs=self._observe(data), reward=reward)

    def _observe(self, data):
        return jnp.concatenate([data.qpos, data.qvel])


def make_env(impl="jax"):
    return Cart(impl)
