"""Does self-distillation keep the entropy? `dipod contraction --out DIR`.

Writes DIR/result.json and DIR/contraction.png.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dipod_jax.cli import parse_with_folder, run_cli
from dipod_jax.studies.contraction.options import Config
from dipod_jax.tables import table


def parse(argv: list[str]) -> Config:
    """The configuration in the arguments, its folder named and free."""
    return parse_with_folder(Config, "contraction", argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and measure."""
    run_cli(parse, run, argv, lasts=True)


def run(config: Config) -> None:
    """Run every arm from the same fitted policy; print the table and where it is written."""
    from dipod_jax.training.setup import prepare_devices

    prepare_devices()
    from dipod_jax.runs import RunFolder
    from dipod_jax.studies.contraction.distillation import Distillation
    from dipod_jax.studies.contraction.results import plot, row

    assert config.out is not None
    folder = RunFolder.create(config.out, dataclasses.asdict(config))
    records: list[dict[str, Any]] = []
    distillation = Distillation(config)
    for arm in config.chosen_arms:
        records.append(distillation.run(arm))
        folder.write_result({"arms": records})  # at once: an interrupt must not cost the arms that are done
        print(f"{arm.name}: {records[-1]['seconds']:.0f} s", flush=True)
    print(table([row(record) for record in records]))
    plot(records, config.out / "contraction.png")
    print(f"written to {config.out}")


if __name__ == "__main__":
    main()
