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
# # The double drift on a control task
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dipod-jax/dipod-jax/blob/main/notebooks/drift_in_control.ipynb)
#
# A flow policy learns to catch a ball in a cup, on MuJoCo's C engine and two CPU cores; no GPU is needed. It is trained
# by FPO, PPO's clip on a ratio of CFM losses, which stand for the likelihood that FPO does not compute. A sampler of K
# steps in two action dimensions *has* an exact likelihood, so every few iterations we look:
#
# 1. without DiPOD the bound leaves the likelihood while the return still rises;
# 2. then the gradient leaves the policy gradient, and the return falls;
# 3. with beta times the CFM loss of the same samples neither happens.
#
# Under four minutes on two cores. The saved output leaves out progress lines, and calls its temporary folder `runs`.

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
from dataclasses import replace
from pathlib import Path

import jax
from IPython.display import Image, display

from dipod_jax import envs, load_policy
from dipod_jax.config import DriftConfig, EvaluationConfig
from dipod_jax.objectives.fpo import Fpo
from dipod_jax.presets import make_config
from dipod_jax.runs import RunFolder
from dipod_jax.studies.arms import run_arms

# The tests run this notebook with fewer steps.
ENV_STEPS = int(os.environ.get("DIPOD_NOTEBOOK_ENV_STEPS", "800000"))
FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Two runs that differ in beta alone
# The `cpu` preset, but with nothing else that holds a bound: PPO's clip on both sides, no clamp of the loss, a constant
# rate. (`dipod train --help` lists every option with its unit and range.)

# %%
recipe, _ = make_config("cpu", "BallInCup", "fpo", "native")
plain = replace(
    recipe,
    seed_list=(11, 12),
    total_steps=ENV_STEPS,
    logger="none",
    objective=Fpo(clip_epsilon=0.05),
    learning=replace(recipe.learning, gae_lambda=0.95, learning_rate=1e-3, final_learning_rate=None),
    drift=DriftConfig(interval=8, num_samples=2048),
    evaluation=EvaluationConfig(num_episodes=32, num_episodes_during=16, interval=100_000),
)
arms = {f"beta {beta:g}": replace(plain, beta=beta, out=FOLDER / f"beta{beta:g}") for beta in (0.0, 0.05)}

# %% [markdown]
# Beta is a leaf of the training state, so one compiled program trains both. Each run leaves a folder with its metrics,
# checkpoints, pictures, a film and a report.

# %%
run_arms(arms)

# %% [markdown]
# ## Return, gap, cosine
# The gap is the log-likelihood minus the ELBO, in nats; the cosine is that of the objective's gradient with the exact
# policy gradient, beside that of two half batches, which is as much agreement as so few samples allow.

# %%
display(Image(FOLDER / "drift.png"))

# %% [markdown]
# ## What moves first?

# %%
for label, config in arms.items():
    records = RunFolder.open(config.out).read_metrics()
    for seed in config.all_seeds:
        drift = [r for r in records if r["kind"] == "drift" and r["seed"] == seed]
        returns = [r for r in records if r["kind"] == "evaluation" and r["seed"] == seed]
        best, last = max(returns, key=lambda r: r["return_mean"]), returns[-1]["return_mean"]
        opened = next((r["env_steps"] for r in drift if r["drift/gap"] > 2 * drift[0]["drift/gap"]), None)
        when = "never" if opened is None else f"at {opened / 1e6:.2f}M env steps"
        print(
            f"{label}, seed {seed}: gap {drift[0]['drift/gap']:.1f} nats at first, twofold {when}; "
            f"best return {best['return_mean']:.0f} at {best['env_steps'] / 1e6:.2f}M, last {last:.0f}"
        )

# %% [markdown]
# ## The trained policy
# Its run folder is all that is needed; observations are the task's own, actions lie in (-1, 1).

# %%
act = load_policy(arms["beta 0.05"].out)
env = envs.make("BallInCup")
state = env.reset(jax.random.key(0), 4)
step = jax.jit(lambda state, key: env.step(state, act(state.obs, key)))
total = 0.0
for key in jax.random.split(jax.random.key(1), 250):
    state, result = step(state, key)
    total += result.reward
print("reward of the first 250 steps in four environments:", total.tolist())
for frame in sorted(arms["beta 0.05"].out.glob("policy-seed*.png"))[:1]:  # none where no OpenGL works
    display(Image(frame, width=600))

# %% [markdown]
# Next: the recipe as it is (`make ballincup`) ends at 970 and does not fall; what holds it, part by part, is in
# `docs/recipe.md`; drift on other tasks, Algorithm 1 and the controller `--beta auto` are in `docs/drift.md`.
