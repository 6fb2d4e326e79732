"""Runs that are compared with each other: one folder per arm, none trained twice, pictures of all at the end."""

from collections.abc import Callable, Mapping

from dipod_jax.config import Config
from dipod_jax.runs import RunFolder


def run_arms(
    arms: Mapping[str, Config], *, one_program: bool, started: float | None = None, say: Callable[[str], None] = print
) -> None:
    """Train what is not finished, one arm after the other, then draw returns.png and drift.png of all of them.

    Args:
        arms: label -> config, each with a folder of its own beside the others, the pictures' folder.
        one_program: the configs differ in `Tunables` and folders only, so that what is compiled serves all.
        started: `time.perf_counter()` from which the first run's clock counts; now where None.
        say: takes each line for the user.
    """
    from dipod_jax.training.setup import prepare_jax

    prepare_jax(next(iter(arms.values())))
    from dipod_jax.studies.comparison import compare
    from dipod_jax.training.loop import train
    from dipod_jax.training.programs import make_programs

    programs = None
    for label, config in arms.items():
        if is_finished(config):
            say(f"{label}: finished before, in {config.out}")
            continue
        say(f"{label}: {config.out}")
        if programs is None or not one_program:
            programs = make_programs(config, config.all_seeds).compile()
        train(config, started=started, programs=programs)
        started = None  # the next run's clock begins with it
    folders = [config.out for config in arms.values() if config.out is not None]
    say(compare(folders, folders[0].parent, labels=tuple(arms)))
    say(f"pictures are in {folders[0].parent}")


def is_finished(config: Config) -> bool:
    """Whether the run that `config` continues has gone as far as it asks for."""
    if not config.resume or config.out is None:
        return False
    return RunFolder.open(config.out).has_reached(config.planned_steps)
