"""What the gradient of `bgpo`'s update takes in memory, for N draws an action, scored at once and in groups.

    python -m benchmarks.memory

XLA's own account of a compiled program's temporary arrays; nothing is run. One minibatch of actions of two dimensions
with 17 observations, and the default network. It says nothing of what is kept for the whole rollout: N losses, times
and noises an action.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from benchmarks._command import Options, check_each, run
from benchmarks._report import Row
from benchmarks._timing import Spread
from dipod_jax.checks import Checked, check_number, require
from dipod_jax.objectives.bgpo import Bgpo
from dipod_jax.policies import flow

OBSERVATION, ACTION = 17, 2


@dataclass(frozen=True)
class MemoryOptions(Options):
    """Memory of one gradient of the objective bgpo."""

    draws: tuple[int, ...] = (8, 32, 128)
    """draws an action, each a multiple of the group"""
    group: int = 4
    """draws scored at once, >= 1"""
    rows: int = 2048
    """actions of the minibatch, >= 1"""

    def __post_init__(self):
        super().__post_init__()
        Checked(self).number("group", low=1)
        Checked(self).number("rows", low=1)
        check_each(check_number, "draws", self.draws, 1)
        for number in self.draws:
            require(number % self.group == 0, "draws", number, f"multiples of the group, {self.group}")


def measure(options: MemoryOptions) -> list[Row]:
    """For each N a row without groups and one with them; a compiled program has one size, whatever `repeats` says."""
    rows = []
    for number in options.draws:
        for variant, group in (("at once", None), (f"{options.group} at a time", options.group)):
            size = temporary_bytes(options.rows, number, group) / 1e6
            rows.append(Row(f"bgpo, {number} draws", variant, Spread(size, size, size), "MB"))
    return rows


def temporary_bytes(rows: int, num_draws: int, at_once: int | None) -> int:
    """Of value and gradient of one minibatch's loss."""
    options = dataclasses.replace(flow.FlowOptions(), num_draws=num_draws, draws_at_once=at_once)
    policy = flow.FlowPolicy(options, OBSERVATION, ACTION)
    params = policy.init(jax.random.key(0))
    obs, action = jnp.zeros((rows, OBSERVATION)), jnp.zeros((rows, ACTION))
    draws = policy.prepare(params, jax.random.key(1), obs, ())

    def loss(params, draws, old):
        new = policy.score(params, obs, action, draws)
        return Bgpo(0.1)(new, new._replace(loss=old), None, action[:, 0])[0]

    lowered = jax.jit(jax.value_and_grad(loss)).lower(params, draws, jnp.ones((rows, num_draws)))
    analysis = lowered.compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


if __name__ == "__main__":
    run("memory", MemoryOptions, measure)
