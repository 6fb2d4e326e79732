"""Which noise should a task begin with? `dipod heldnoise --tasks CartpoleSwingup CartpoleBalance my_module:make_env`.

Where noise that is held for a while earns an untrained policy more than fresh noise, it finds more: what has to be
swung. Where it earns less for every time, it ruins what the task begins with: what has to be balanced, and
a smaller `--policy.noise-correlation` is the one to begin with. At a step of .02 s `cpu` holds noise for .09 s.

The last two columns are the least reward of all first steps and the mean reward after 50, over all times. Where every
episode begins with reward and nothing is left after 50 steps, it falls and does not get up, and a training episode
should end with the fall: `--rollout.terminate-below` a little under half of the first reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dipod_jax.checks import Checked, check_number, check_selection
from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.envs.tasks import TASKS, check_found
from dipod_jax.tables import table


@dataclass(frozen=True)
class Config:
    """Return of an untrained policy by the seconds in which noise is forgotten; native physics on a CPU, else mjx."""

    tasks: tuple[str, ...] = TASKS
    """Playground's DM-Control tasks, or module:factory of your own"""
    seconds: tuple[float, ...] = (0.0, 0.09, 0.2, 0.5, 1.0)
    """tau, each >= 0: the correlation after a step of dt seconds is exp(-dt / tau); 0 is fresh noise in every step"""
    num_episodes: int = 64
    """episodes for each tau, >= 2"""
    num_steps: int = 1000
    """steps of an episode, >= 1"""

    def __post_init__(self) -> None:
        check_selection("tasks", self.tasks)
        for task in self.tasks:
            check_found(task)
        check_selection("seconds", self.seconds)
        for tau in self.seconds:
            check_number("seconds", tau, 0.0)
        check = Checked(self)
        check.number("num_episodes", low=2)
        check.number("num_steps", low=1)


def parse(argv: list[str]) -> Config:
    """The configuration in the arguments."""
    return parse_options(Config, argv, prog=command_name("heldnoise"))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and measure."""
    run_cli(parse, measure, argv, lasts=True)


def measure(config: Config) -> None:
    """Print each task's returns as soon as they are there, then the table."""
    from dipod_jax.training.setup import import_mujoco, prepare_devices

    import_mujoco()
    prepare_devices()
    from dipod_jax import envs
    from dipod_jax.studies.held_noise import row, untrained_rewards

    rows = []
    for task in config.tasks:
        env = envs.make(task, episode_length=config.num_steps)
        rewards = untrained_rewards(env, config.seconds, config.num_episodes)
        rows.append(row(task, env.dt, config.seconds, rewards))
        print(" | ".join(rows[-1].values()), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
