"""Where to put (t, eps): noise of the bounds and of their gradients.

    dipod placements --run runs/ballincup    # a trained policy
    dipod placements                         # a small network fitted here

Prints a table and writes DIR/result.json.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from dipod_jax.checks import require
from dipod_jax.cli import command_name, parse_options, run_cli
from dipod_jax.runs import RunFolder, check_unused, check_writable
from dipod_jax.studies.placements.options import Config
from dipod_jax.tables import table


def parse(argv: list[str]) -> Config:
    """The configuration in the arguments, its folder named and free and its run a flow policy's."""
    config = parse_options(Config, argv, prog=command_name("placements"))
    if config.run is not None:
        stored = RunFolder.open(config.run).config
        from dipod_jax.serialisation import from_json

        flow = from_json(stored).policy.has_field
        require(flow, "run", str(config.run), "a run that trained a flow policy, whose velocity field has a bound")
    out = config.out or Path("runs/placements") / time.strftime("%Y%m%d-%H%M%S")
    check_writable(out)
    check_unused(out)
    return dataclasses.replace(config, out=out)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and measure."""
    run_cli(parse, run, argv, lasts=True)


def run(config: Config) -> None:
    """Measure every placement, print the table, write the result."""
    from dipod_jax.training.setup import import_mujoco, prepare_devices

    import_mujoco()
    prepare_devices()
    from dipod_jax.studies.placements.measurement import cells, measure
    from dipod_jax.studies.placements.policies import fitted, trained

    assert config.out is not None
    folder = RunFolder.create(config.out, dataclasses.asdict(config))
    rows = measure(config, fitted(config) if config.run is None else trained(config, config.run))
    folder.write_result({"rows": rows})
    print(table([cells(row) for row in rows]))
    print(f"written to {config.out}")


if __name__ == "__main__":
    main()
