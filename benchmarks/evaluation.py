"""Evaluation: env steps/s of whole episodes with random and with zero base noise, against raw MuJoCo.

python -m benchmarks.evaluation
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks._command import Options, require_tasks, run
from dipod_jax.checks import require


@dataclass(frozen=True)
class EvaluationOptions(Options):
    """Evaluation env steps/s."""

    repeats: int = 3
    """turns in which the variants are timed, >= 1; medians and ranges are over them"""
    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    num_episodes: int = 32
    """episodes of each of the two kinds, >= 1"""
    episode_length: int = 1000
    """steps of an episode, >= 1"""
    raw_steps: int = 100
    """horizon of raw mujoco.rollout, >= 1; its rate is what counts"""

    def __post_init__(self):
        super().__post_init__()
        require_tasks("task", (self.task,))
        for name in ("num_episodes", "episode_length", "raw_steps"):
            require(getattr(self, name) >= 1, name.replace("_", "-"), getattr(self, name), "at least 1")


def measure(options: EvaluationOptions) -> list:
    """Raw MuJoCo and `Trainer.evaluate`."""
    import jax
    from dipod_jax.training.trainer import Trainer

    from benchmarks import _setup
    from benchmarks._report import compare
    from benchmarks._timing import interleave
    from dipod_jax import envs
    from dipod_jax.config import EvaluationConfig
    from dipod_jax.presets import PRESETS

    config = replace(PRESETS["cpu"](options.task, "fpo"), backend=_setup.set_up())
    evaluation = EvaluationConfig(options.num_episodes, options.num_episodes)
    trainer = Trainer(replace(config, evaluation=evaluation), (0,))
    trainer.evaluation_env = envs.make(options.task, config.backend, episode_length=options.episode_length)
    state = jax.block_until_ready(trainer.init())
    data = jax.tree.map(lambda x: x[0][: 2 * options.num_episodes], state.actor.env.physics.data)
    raw = _setup.raw_rollout(trainer.env, data, options.raw_steps)
    evaluate = lambda: trainer.evaluate(state.learner, options.num_episodes)
    # Both kinds of episode; each device takes an equal share, rounded up.
    work = float(2 * trainer._chunk * trainer.shards * options.episode_length)
    samples = interleave({_setup.RAW: raw.variant, "evaluation": (evaluate, work)}, options.repeats)
    on_cpu = jax.default_backend() == "cpu"
    return compare(f"{options.task} 2x{options.num_episodes} episodes", samples, _setup.RAW, cpu_time=on_cpu)


if __name__ == "__main__":
    run("evaluation", EvaluationOptions, measure)
