"""Language objectives with and without DiPOD, and what DiPOD is: `python -m experiments.table1 --seeds 3`.

Writes DIR/table1.md, DIR/table1.csv and DIR/table1.png after each arm, which leaves a run folder of its own. The same
command goes on where it was stopped; with other tasks or groups it adds to the same tables.
Several processes may run it at once: each takes runs that no other has.
"""

from collections.abc import Sequence
from dataclasses import replace

from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.memory import check_post_training
from dipod_jax.runs import check_writable
from dipod_jax.studies.table1.options import Config
from dipod_jax.studies.table1.study import check_settings, make_units


def parse(argv: list[str]) -> Config:
    """The study in the arguments, every one of its configs validated."""
    options = parse_options(Config, argv, prog=command_name("table1"))
    check_writable(options.out)
    check_settings(options)
    for unit in make_units(replace(options, seeds=1)):
        check_post_training(unit.config)
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and run the study."""
    run_cli(parse, study, argv, lasts=True)


def study(options: Config) -> None:
    """Run what is not finished yet; print the tables and where they are written."""
    from dipod_jax.studies.table1.study import Trainer, run
    from dipod_jax.training.setup import prepare_devices

    prepare_devices()
    path = run(options, make_units(options), Trainer(), say=lambda line: print(line, flush=True))
    print(path.read_text(encoding="utf-8"))
    print(f"written to {options.out}: table1.md, table1.csv and table1.png")


if __name__ == "__main__":
    main()
