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
# # Beyond two tokens, still exact
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/dipod-jax/dipod-jax/blob/main/notebooks/tiny_diffusion.ipynb)
#
# The likelihood of a masked diffusion over `V^L` is a mean over `L!` unmasking orders. Dynamic programming over the
# `2^L` subsets of revealed positions makes it exact for small L, and with it the gap, the gradients and their cosine.

# %%
# Installs the package where it is missing (Colab); does nothing in a checkout.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("dipod_jax") is None:
    source = "git+https://github.com/dipod-jax/dipod-jax"
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", source])

# %%
import io
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import Image, display

from dipod_jax.toys import bounds
from dipod_jax.toys.models import ConditionalTable
from dipod_jax.toys.space import make_space, self_distilled_table, token_log_probs
from dipod_jax.toys.studies import compare
from dipod_jax.toys.studies.common import Options

# The tests run this notebook with a smaller length and fewer steps.
LENGTH = int(os.environ.get("DIPOD_NOTEBOOK_LENGTH", "3"))
STEPS = int(os.environ.get("DIPOD_NOTEBOOK_STEPS", "1500"))

# %% [markdown]
# ## One likelihood, two ways
# The subset recursion against the mean over all orders, for a random table of conditionals.

# %%
space = make_space(LENGTH, 2)
with jax.enable_x64(True):
    model = ConditionalTable(LENGTH, 2, init_scale=1.5)
    all_bounds = jax.jit(lambda table: bounds.all_bounds(table, space, "renyi", 2.0))
    table = model.apply(model.init(jax.random.key(0)))
    exact = jax.tree.map(np.asarray, all_bounds(table))
    steps = np.asarray(token_log_probs(jnp.asarray(table), space))
x = 1  # the second sequence
total = 0.0
orders = list(itertools.permutations(range(LENGTH)))
for order in orders:
    revealed, log_w = 0, 0.0
    for i in order:
        log_w += steps[x, revealed, i]
        revealed |= 1 << i
    total += np.exp(log_w) / len(orders)
print(f"sequence {space.sequences[x]}: {len(orders)} orders {np.log(total):.6f}, recursion {exact.log_prob[x]:.6f}")
print(f"ELBO {exact.elbo[x]:.4f} <= log pi {exact.log_prob[x]:.4f} <= Renyi EUBO {exact.eubo[x]:.4f}")

# %% [markdown]
# ## Perfect self-distillation
# Replacing every conditional by the policy's own true conditional keeps the policy and closes the gap: the optimum
# that DiPOD's Algorithm 1 distils towards.

# %%
with jax.enable_x64(True):
    logits = self_distilled_table(jnp.exp(exact.log_prob), space)
    distilled = jax.tree.map(np.asarray, all_bounds(jax.nn.log_softmax(logits)))
print(f"largest gap: {exact.lower_gap.max():.3f} before, {distilled.lower_gap.max():.1e} after")
print(f"largest change of a log-probability: {np.abs(distilled.log_prob - exact.log_prob).max():.1e}")

# %% [markdown]
# ## The methods of figure 1 on random rewards
# Means over three reward tables; bands are their range.

# %%
study = compare.run(Options(length=LENGTH, vocab_size=2, steps=STEPS, seeds=3))
picture = io.BytesIO()
study.figure.savefig(picture, dpi=80)
display(Image(picture.getvalue()))

# %%
for row in study.rows:
    print("  ".join(f"{key}: {value}" for key, value in row.items()))
