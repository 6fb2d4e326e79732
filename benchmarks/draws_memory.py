"""What the gradient of `bgpo`'s update takes in memory, for N draws an action, at once and four at a time.

    python -m benchmarks.draws_memory

XLA's own account of a compiled program's temporary arrays; nothing is run. An update of 2,048 actions of two dimensions
with 17 observations, and the network of the `cpu` preset. It says nothing of what is kept for the whole rollout: N
losses, times and noises an action.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from dipod_jax.objectives.bgpo import Bgpo
from dipod_jax.policies.flow import FlowOptions, FlowPolicy
from dipod_jax.tables import table

NUM_DRAWS, ROWS, OBSERVATION, ACTION = (8, 32, 128), 2048, 17, 2


def temporary_bytes(num_draws: int, at_once: int | None) -> int:
    """Of value and gradient of one minibatch's loss."""
    options = dataclasses.replace(FlowOptions(), num_draws=num_draws, draws_at_once=at_once)
    policy = FlowPolicy(options, OBSERVATION, ACTION)
    params = policy.init(jax.random.key(0))
    obs, action = jnp.zeros((ROWS, OBSERVATION)), jnp.zeros((ROWS, ACTION))
    draws = policy.prepare(params, jax.random.key(1), obs, ())

    def loss(params, draws, old):
        new = policy.score(params, obs, action, draws)
        return Bgpo(0.1)(new, new._replace(loss=old), None, action[:, 0])[0]

    lowered = jax.jit(jax.value_and_grad(loss)).lower(params, draws, jnp.ones((ROWS, num_draws)))
    return lowered.compile().memory_analysis().temp_size_in_bytes  # pyright: ignore


def main() -> None:
    """Print one row for each N."""
    mb = lambda size: f"{size / 1e6:.1f} MB"
    rows = [
        {"draws": str(n), "at once": mb(temporary_bytes(n, None)), "four at a time": mb(temporary_bytes(n, 4))}
        for n in NUM_DRAWS
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
