"""Runs that are compared with each other in one process: one folder per arm, pictures of all at the end."""

from collections.abc import Callable, Mapping

from dipod_jax.config import Config


def run_arms(arms: Mapping[str, Config], *, say: Callable[[str], None] = print) -> None:
    """Train one arm after the other by one compiled program, then draw returns.png and drift.png of all of them.

    Args:
        arms: label -> config, each with a folder of its own beside the others, the pictures' folder. They differ in
            `Tunables` and folders only.
        say: takes each line for the user.
    """
    from dipod_jax.training.setup import prepare_jax

    first = next(iter(arms.values()))
    prepare_jax(first)
    from dipod_jax.studies.comparison import compare
    from dipod_jax.training.loop import train
    from dipod_jax.training.programs import make_programs

    programs = make_programs(first, first.all_seeds).compile()
    for label, config in arms.items():
        say(f"{label}: {config.out}")
        train(config, programs=programs)
    folders = [config.out for config in arms.values() if config.out is not None]
    say(compare(folders, folders[0].parent, labels=tuple(arms)))
    say(f"pictures are in {folders[0].parent}")
