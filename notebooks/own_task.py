# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own task
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dipod-jax/dipod-jax/blob/main/notebooks/own_task.ipynb)
#
# A robot of one's own, from its XML to a film of the trained policy: a cart on a rail carries a pole, and has to hold
# it upright in the middle. Ten lines train it; a curve and a film follow. No GPU is needed; minutes on two cores.

# %%
# Installs the package where it is missing (Colab); does nothing in a checkout.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("dipod_jax") is None:
    source = "git+https://github.com/dipod-jax/dipod-jax"
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", source])

# %%
import os
import tempfile
from pathlib import Path

from IPython.display import Image, Video, display

import dipod_jax

# The tests run this notebook with fewer steps.
ENV_STEPS = int(os.environ.get("DIPOD_NOTEBOOK_ENV_STEPS", "600000"))
FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The task
# A Playground `MjxEnv`: a model, `reset`, `step`, and an observation that is one vector. It goes into a module, so that
# a saved policy can find its task again; the function at the end is what `module:function` names. `impl` says which
# physics is asked for: `jax` on MJX and on MuJoCo's C engine, `warp` on MuJoCo Warp.

# %%
TASK = '''
import jax
import jax.numpy as jnp
import mujoco
from ml_collections import config_dict
from mujoco import mjx
from mujoco_playground import MjxEnv, State
from mujoco_playground._src import mjx_env

XML = """
<mujoco>
  <asset><texture type="skybox" builtin="gradient" rgb1=".95 .97 1" rgb2=".7 .78 .88" width="64" height="64"/></asset>
  <worldbody>
    <light pos="0 -2 3" dir="0 .5 -1"/>
    <camera name="side" pos="0 -3 .4" xyaxes="1 0 0 0 0 1"/>
    <geom type="capsule" fromto="-1.2 0 0 1.2 0 0" size=".02" rgba=".5 .5 .5 1" contype="0" conaffinity="0"/>
    <body name="cart">
      <joint name="rail" type="slide" axis="1 0 0" damping=".5" range="-1 1" limited="true"/>
      <geom type="box" size=".12 .08 .06" mass="1" rgba="0 .45 .7 1" contype="0" conaffinity="0"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0" damping=".01"/>
        <geom type="capsule" fromto="0 0 0 0 0 .8" size=".03" mass=".2" rgba=".84 .37 0 1" contype="0" conaffinity="0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="rail" gear="15" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>"""


class CartPole(MjxEnv):
    """Hold the pole upright, in the middle of the rail; an episode ends where it leans over by .6 radians."""

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
        start = jax.random.uniform(rng, (2,), minval=-0.1, maxval=0.1)
        data = mjx_env.make_data(self.mj_model, qpos=start, impl=self.mjx_model.impl.value, naconmax=16, njmax=8)
        data = mjx.forward(self.mjx_model, data)
        return State(data, self.observe(data), jnp.zeros(()), jnp.zeros(()), {}, {})

    def step(self, state, action):
        data = mjx_env.step(self.mjx_model, state.data, action, self.n_substeps)
        x, angle = data.qpos
        fallen = jnp.where(jnp.abs(angle) > 0.6, 1.0, 0.0)
        return state.replace(data=data, obs=self.observe(data), reward=1 - jnp.abs(x), done=fallen)

    def observe(self, data):
        x, angle = data.qpos
        return jnp.stack([x, jnp.sin(angle), jnp.cos(angle), *data.qvel])


def make_env(impl="jax"):
    return CartPole(impl)
'''
(FOLDER / "cartpole.py").write_text(TASK)
sys.path.insert(0, str(FOLDER))

# %% [markdown]
# ## Ten lines
# The `cpu` recipe as it is; nothing about it was chosen for this task. The same from a shell, in the folder of the
# module: `dipod train --task cartpole:make_env --beta 0.05`.

# %%
config = dipod_jax.make_config(
    "cartpole:make_env",
    preset="cpu",
    backend="native",
    beta=0.05,
    total_steps=ENV_STEPS,
    out=FOLDER / "run",
    logger="none",
    evaluation={"interval": 100_000, "num_episodes_during": 16, "num_episodes": 32},
)
run_dir = dipod_jax.train(config)

# %% [markdown]
# ## Its curve
# An episode of 1000 steps earns at most 1000, and one where the pole falls ends there. Below, whether the bound is
# still the likelihood: the gap, and the cosine of the objective's gradient with the exact policy gradient.

# %%
display(Image(run_dir / "returns.png", width=800))
display(Image(run_dir / "drift.png", width=800))

# %% [markdown]
# ## Its film

# %%
film = run_dir / "policy-seed0.mp4"
if film.exists():  # where OpenGL works
    display(Image(film.with_suffix(".png"), width=800))
    display(Video(film, embed=True, width=800))

# %% [markdown]
# ## Fresh episodes
# The policy needs nothing but its run folder and the module of its task.

# %%
fresh = dipod_jax.evaluate(run_dir, episodes=64)["return"]
low, high = fresh["ci95"]
print(f"return of 64 fresh episodes: {fresh['mean']:.0f}, 95 % interval {low:.0f} to {high:.0f}")

# %% [markdown]
# Next: what a task must keep to is in `docs/howto/own_task.md`, how to read the pictures in `docs/howto/report.md`, and
# what to do if yours does not learn in `docs/howto/trouble.md`. `dipod export` takes the policy to the robot.
