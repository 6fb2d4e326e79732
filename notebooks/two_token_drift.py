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
# # The double drift, to the last digit
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dipod-jax/dipod-jax/blob/main/notebooks/two_token_drift.ipynb)
#
# A masked diffusion over two binary tokens has six numbers. Its likelihood, its ELBO and every gradient are sums of
# four terms, so the claim of DiPOD (arXiv 2606.13795, section 4.1) can be looked at without any sampling noise:
#
# 1. a policy gradient on the ELBO lets the ELBO leave the likelihood (first drift);
# 2. then its direction leaves the true policy gradient (second drift);
# 3. adding `beta * E_pi[ELBO]` holds both.

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

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from dipod_jax.toys import bounds
from dipod_jax.toys.figures import COLOURS, LABELS, linestyle
from dipod_jax.toys.options import PAPER_METHODS
from dipod_jax.toys.space import make_space
from dipod_jax.toys.two_tokens import LOGIT_NAMES, OUTPUTS, TwoTokenDiffusion, conditional_table, train

# The tests run this notebook with fewer steps.
STEPS = int(os.environ.get("DIPOD_NOTEBOOK_STEPS", "1500"))

# %% [markdown]
# ## The model
# Start from `MM` (both masked), pick a position at random, draw its token, then draw the other one. Each output has
# two ways to arise, `w1` (position 1 first) and `w2`; `pi = (w1 + w2) / 2`, `ELBO = (log w1 + log w2) / 2`. When the
# two ways agree the bound is tight.

# %%
space = make_space(2, 2)
with jax.enable_x64(True):
    model = TwoTokenDiffusion(init_logit=0.5)
    start = bounds.all_bounds(model.apply(model.init(jax.random.key(0))), space, "spg", 1.5)
    skewed = bounds.all_bounds(conditional_table(jnp.array([2.0, 0.5, 0.5, -1.0, 0.5, 0.5])), space, "spg", 1.5)
print("six logits:", ", ".join(LOGIT_NAMES))
for name, b in (("all logits 0.5", start), ("two of them moved", skewed)):
    print(f"\n{name}")
    for x, log_prob, elbo, gap in zip(OUTPUTS, b.log_prob, b.elbo, b.lower_gap, strict=True):
        print(f"  {x}: log pi {log_prob:8.4f}   ELBO {elbo:8.4f}   gap {gap:.4f}")

# %% [markdown]
# ## Figure 1
# Rewards `AA .8, AB 1, BA .7, BB 1`, exact gradients, plain ascent with step 0.1.

# %%
curves = train(PAPER_METHODS, [0.5, 0.0], steps=STEPS)
panels = (
    ("mean_gap", "mean gap (nats)"),
    ("gradient_cosine", "cosine with the policy gradient"),
    ("expected_reward", "E r"),
)
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
for axis, (field, title) in zip(axes, panels, strict=True):
    for m, method in enumerate(PAPER_METHODS):
        axis.plot(getattr(curves, field)[m, 0], color=COLOURS[method], ls=linestyle(method), label=LABELS[method])
    axis.set(title=title, xlabel="step")
    axis.grid(alpha=0.25)
axes[0].set(yscale="log", ylim=(1e-5, None))
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# The reward curves lie on top of each other: in this toy the drift costs no reward. What it costs is the meaning of
# the gradient (middle). And even the exact policy gradient loosens the bound: a tight bound has to be asked for.

# %%
print(f"{'method':22s} mean gap  largest gap  reward  cosine")
for m, method in enumerate(PAPER_METHODS):
    row = (c[m, 0, -1] for c in (curves.mean_gap, curves.max_gap, curves.expected_reward, curves.gradient_cosine))
    print("{:22s} {:8.4f}  {:11.4f}  {:6.4f}  {:6.3f}".format(LABELS[method], *row))

# %% [markdown]
# ## How much beta?
# The most negative advantage at the start is about -.15. Below that beta the worst outputs are still pushed down.

# %%
betas = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
final_gap = [train(["fpo+dipod"], [0.5], steps=STEPS, beta=beta).mean_gap[0, 0, -1] for beta in betas]
for beta, gap in zip(betas, np.array(final_gap), strict=True):
    print(f"beta {beta:4.2f}: mean gap {gap:.5f}")
