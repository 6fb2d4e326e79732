"""Acting: policy and environment in one scan, as in training, over the number of environments.

    python -m benchmarks.rollout

`acting` is `training.rollout` with an untrained policy of the preset, refreshed start states included; `sampler` is the
policy's integrator alone on the same batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks._command import Options, require_each, require_tasks, run
from dipod_jax.checks import require


@dataclass(frozen=True)
class RolloutOptions(Options):
    """Acting env steps/s against raw mujoco.rollout, from few to many environments."""

    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    num_envs: tuple[int, ...] = (64, 256, 1024, 4096)
    """batch sizes, each >= 1 and divisible by the number of devices"""
    steps_per_call: int = 8192
    """env steps of one timed call, >= 1; more where a batch takes fewer than 8 steps"""

    def __post_init__(self):
        super().__post_init__()
        require_tasks("task", (self.task,))
        require_each(lambda n: n >= 1, "num-envs", self.num_envs, "numbers >= 1")
        require(self.steps_per_call >= 1, "steps-per-call", self.steps_per_call, "at least 1")


def measure(options: RolloutOptions) -> list:
    """All rows."""
    from benchmarks._setup import set_up

    backend = set_up()
    return [row for num_envs in options.num_envs for row in _one(options, backend, num_envs)]


def _one(options: RolloutOptions, backend: Any, num_envs: int) -> list:
    import jax

    from benchmarks import _setup
    from benchmarks._report import compare
    from benchmarks._timing import interleave

    steps = _setup.horizon(num_envs, options.steps_per_call)
    trainer = make_trainer(  # nothing is learned here
        options.task, backend, num_envs, steps, minibatch_size=num_envs * steps, unroll_length=steps
    )
    state = jax.block_until_ready(trainer.init())
    data = jax.tree.map(lambda x: x[0], state.actor.env.physics.data)
    work = float(num_envs * steps)
    variants = {
        _setup.RAW: _setup.raw_rollout(trainer.env, data, steps).variant,
        "acting": (_setup.blocking(acting_program(trainer), state), work),
        "sampler": (_setup.blocking(sampler_program(trainer), state), work),
    }
    samples = interleave(variants, options.repeats)
    on_cpu = jax.default_backend() == "cpu"
    notes = {"sampler": "actions/s, without an environment"}
    return compare(f"{options.task} {num_envs} envs", samples, _setup.RAW, notes=notes, cpu_time=on_cpu)


def make_trainer(
    task: str, backend: Any, num_envs: int, num_steps: int, preset: str = "cpu", objective: Any = "fpo", **learning: Any
) -> Any:
    """A trainer of one seed of `preset` at the given batch."""
    from dipod_jax.training.trainer import Trainer

    from dipod_jax.presets import PRESETS

    config = replace(PRESETS[preset](task, objective), backend=backend)
    minibatch = min(config.learning.minibatch_size, num_envs * num_steps)
    config = replace(
        config,
        rollout=replace(config.rollout, num_envs=num_envs, num_steps=num_steps),
        learning=replace(config.learning, **({"minibatch_size": minibatch} | learning)),
    )
    return Trainer(config, (0,))


def acting_program(trainer: Any) -> Any:
    """TrainState -> (ActorState, Transitions (S, T, B)): the rollout of an iteration, sharded as the trainer's own."""
    import jax
    from jax.sharding import PartitionSpec

    from benchmarks import _setup
    from dipod_jax.training.rollout import rollout

    config = trainer.config

    def act(state: Any) -> Any:
        learner, actor = state
        key = jax.random.fold_in(learner.key, jax.lax.axis_index("data"))
        num_steps = config.rollout.num_steps
        return rollout(trainer.env, trainer.policy, config.policy, learner, actor, key, num_steps)

    results = PartitionSpec("seed", "data"), PartitionSpec("seed", None, "data")
    return _setup.sharded(trainer._over_seeds(act), trainer.mesh, (trainer._specs,), results)


def sampler_program(trainer: Any) -> Any:
    """TrainState -> actions (S, B, d): as many sampler calls as a rollout makes, each started at the last's end."""
    import jax
    from jax.sharding import PartitionSpec

    from benchmarks import _setup

    policy, num_steps = trainer.policy, trainer.config.rollout.num_steps

    def act(state: Any) -> jax.Array:
        learner, actor = state
        obs = learner.obs_statistics.normalise(actor.env.obs)
        again = lambda noise, _: (policy.act(learner.params["policy"], obs, noise), None)
        return jax.lax.scan(again, actor.base_noise, None, length=num_steps)[0]

    return _setup.sharded(trainer._over_seeds(act), trainer.mesh, (trainer._specs,), PartitionSpec("seed", "data"))


if __name__ == "__main__":
    run("rollout", RolloutOptions, measure)
