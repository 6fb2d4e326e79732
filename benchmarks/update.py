"""Learning: the whole update under each objective, and the gradient steps of policy and critic against the machine's
matrix-product peak.

    python -m benchmarks.update

The peak is the best rate of large single-precision products, sharded over the same devices and timed in the same turns.
Operations are those that the compiler counts in a gradient before it optimises it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from benchmarks._command import Options, check_each, run
from benchmarks._report import Row, compare
from benchmarks._setup import DATA, blocking, data_mesh, place, programs_of, set_up
from benchmarks._timing import Variant, interleave
from dipod_jax import envs
from dipod_jax.checks import Checked, check_choice, check_number
from dipod_jax.config import Backend, Preset
from dipod_jax.envs.tasks import check_task
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.policies import Critic
from dipod_jax.presets import make_config

PARTS = ("gradients", "update")
PEAK, BASELINE = "sgemm peak", "fpo"
POLICY_TARGET, CRITIC_TARGET = 0.25, 0.5


@dataclass(frozen=True)
class UpdateOptions(Options):
    """The learner's update in transitions/s, and gradient steps as a share of the sgemm peak."""

    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    parts: tuple[str, ...] = PARTS
    """what to measure: gradients, update"""
    preset: Preset = "cpu"
    """whose whole update is timed"""
    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    """objectives whose whole update is compared with that of fpo, by default all there are"""
    peak_sizes: tuple[int, ...] = (512, 1024, 2048)
    """sides of the square matrices whose product's best rate is the peak, each >= 1"""
    minibatch: int = 1024
    """transitions of one gradient step of the cpu preset's networks, >= 1"""
    paper_minibatch: int = 30720
    """transitions of one gradient step of the paper's critic, >= 0; 0 leaves it out"""
    gradient_steps: int = 64
    """gradient steps of one timed call of the small networks, >= 1"""

    def __post_init__(self):
        super().__post_init__()
        check_task(self.task)
        check_each(check_choice, "parts", self.parts, PARTS)
        check_each(check_choice, "objectives", self.objectives, OBJECTIVES)
        check_each(check_number, "peak-sizes", self.peak_sizes, 1)
        check = Checked(self)
        check.choices()
        check.number("minibatch", "gradient_steps", low=1)
        check.number("paper_minibatch")


def measure(options: UpdateOptions) -> list[Row]:
    """All rows."""
    backend = set_up()
    measures = {"gradients": _gradients, "update": _updates}
    return [row for part in options.parts for row in measures[part](options, backend)]


def _gradients(options: UpdateOptions, backend: Backend) -> list[Row]:
    """Operations a second of each network's gradient steps, and of the best square product."""
    env, steps = envs.make(options.task, backend), options.gradient_steps
    variants = {f"sgemm {size}": sgemm(size) for size in options.peak_sizes}
    variants["policy of cpu"] = policy_steps("cpu", options.task, env, options.minibatch, steps)
    variants["critic of cpu"] = critic_steps("cpu", options.task, env, options.minibatch, steps)
    if options.paper_minibatch:
        variants["critic of paper"] = critic_steps("paper", options.task, env, options.paper_minibatch, 1)
    samples = interleave(variants, options.repeats)
    squares = [samples.pop(f"sgemm {size}") for size in options.peak_sizes]
    # The machine's peak at this turn: the best of the products timed in it.
    peak = [min(turn, key=lambda s: s.seconds / s.work) for turn in zip(*squares, strict=True)]
    targets = {name: POLICY_TARGET if name.startswith("policy") else CRITIC_TARGET for name in samples}
    return compare("gradient step", {PEAK: peak} | samples, PEAK, unit="FLOP/s", targets=targets)


def sgemm(size: int) -> Variant:
    """A chain of square products on every device, and its operations."""
    count, devices = max(1, round(2e9 / (2 * size**3))), jax.device_count()  # about 2 GFLOP a device and call
    mesh = data_mesh(devices)
    matrices = place(jnp.full((devices * size, size), 1.0 / size), mesh, DATA)
    chain = lambda x: jax.lax.fori_loop(0, count, lambda _, y: y @ x, x)
    program = jax.jit(jax.shard_map(chain, mesh=mesh, in_specs=PartitionSpec(DATA), out_specs=PartitionSpec(DATA)))
    return blocking(program, matrices), float(devices * count * 2 * size**3)


def gradient_steps(loss: Callable, params: Any, data: Any, minibatch: int) -> Variant:
    """Gradient steps against `loss(params, *batch)`, one for each of the K minibatches in `data` (K, M, ...), and their
    operations.

    The step is a plain one and tiny: Adam is not what is timed here, and each step must need the one before.
    """
    gradient = jax.grad(lambda params, batch: loss(params, *batch))

    def step(params: Any, batch: Any) -> tuple[Any, None]:
        return jax.tree.map(lambda p, g: p - 1e-6 * g, params, gradient(params, batch)), None

    program = jax.jit(lambda params, data: jax.lax.scan(step, params, data)[0])
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), data)
    counted, mesh = jax.jit(gradient).lower(params, one).cost_analysis(), data_mesh(minibatch)
    assert counted is not None
    operations = jax.tree.leaves(data)[0].shape[0] * counted["flops"]
    return blocking(program, place(params, mesh), place(data, mesh, None, DATA)), operations


def policy_steps(preset: Preset, task: str, env: envs.BatchedEnv, minibatch: int, steps: int) -> Variant:
    """Gradient steps of the policy's CFM loss."""
    policy = make_config(preset, task, BASELINE)[0].policy.build(env.observation_size, env.action_size).field
    assert policy is not None
    keys = jax.random.split(jax.random.key(0), 4)
    random = lambda key, size: jax.random.normal(key, (steps, minibatch, size))
    draws = policy.sample_draws(keys[0], (steps, minibatch))
    data = random(keys[1], env.observation_size), random(keys[2], env.action_size), draws
    loss = lambda params, *batch: policy.cfm_loss(params, *batch).mean()
    return gradient_steps(loss, policy.init(keys[3]), data, minibatch)


def critic_steps(preset: Preset, task: str, env: envs.BatchedEnv, minibatch: int, steps: int) -> Variant:
    """Gradient steps of the critic's squared error."""
    critic = Critic(make_config(preset, task, BASELINE)[0].critic, env.observation_size)
    keys = jax.random.split(jax.random.key(0), 3)
    obs = jax.random.normal(keys[0], (steps, minibatch, env.observation_size))
    data = obs, jax.random.normal(keys[1], (steps, minibatch))
    loss = lambda params, obs, target: jnp.square(critic.value(params, obs) - target).mean()
    return gradient_steps(loss, critic.init(keys[2]), data, minibatch)


def _updates(options: UpdateOptions, backend: Backend) -> list[Row]:
    """The learner's update of one iteration under each objective, against that of fpo: all epochs, losses under the
    acting parameters, advantages, Adam and statistics."""
    names = dict.fromkeys((BASELINE, *options.objectives))
    variants = {name: whole_update(options.preset, options.task, backend, name) for name in names}
    samples = interleave(variants, options.repeats)
    notes = {name: f"{1e6 * own[0].seconds / own[0].work:.2f} us" for name, own in samples.items()}
    return compare("whole update", samples, BASELINE, unit="transitions*epochs/s", notes=notes)


def whole_update(preset: Preset, task: str, backend: Backend, objective: str) -> Variant:
    """The update on one rollout, from the same parameters at every call, and its transitions times epochs."""
    programs = programs_of(preset, task, backend, objective=objective)
    learner, actor = programs.init()
    _, transitions = programs.act(learner, actor)
    update = lambda state, rollout: programs.learner.update(state, rollout, jax.random.fold_in(state.key, 0))
    program = jax.jit(programs.layout.over_seeds(update))
    work = float(programs.config.steps_per_iteration * programs.config.learning.num_epochs)
    return blocking(program, learner, jax.block_until_ready(transitions)), work


if __name__ == "__main__":
    run("update", UpdateOptions, measure)
