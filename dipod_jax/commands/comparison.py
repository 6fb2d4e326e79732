"""Every objective with and without DiPOD, on equal terms: `python -m experiments.comparison`.

Writes DIR/comparison.md (a table a task), DIR/seeds.csv and DIR/comparison.png after each run of the study. The same
command goes on where it was stopped; with other objectives, tasks or lengths it adds to the same tables.
Several processes may run it at once: each takes methods that no other has.
"""

from collections.abc import Sequence

from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.commands.train import check_backend
from dipod_jax.presets import make_config
from dipod_jax.runs import check_writable
from dipod_jax.studies.methods.options import Config
from dipod_jax.studies.methods.study import check_settings


def parse(argv: list[str]) -> Config:
    """The study in the arguments, every one of its configs validated."""
    options = parse_options(Config, argv, prog=command_name("comparison"))
    check_writable(options.out)
    check_backend(options.backend)
    check_settings(options)
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and compare."""
    run_cli(parse, compare, argv, lasts=True)


def compare(options: Config) -> None:
    """Run what is not finished yet; print the table and where it is written."""
    from dipod_jax.training.setup import prepare_jax

    prepare_jax(make_config(options.preset, options.tasks[0], options.objectives[0], options.backend)[0])
    from dipod_jax.studies.methods.study import run
    from dipod_jax.studies.methods.training import Trainer

    path = run(options, Trainer(), say=lambda line: print(line, flush=True))
    print(path.read_text(encoding="utf-8"))
    print(f"written to {options.out}: comparison.md, seeds.csv and comparison.png")


if __name__ == "__main__":
    main()
