"""A policy to take away: `dipod export RUN_DIR` writes StableHLO, ONNX and a contract, and checks both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dipod_jax.checks import check_selection
from dipod_jax.cli import command_name, parse_options, run_cli


@dataclass(frozen=True)
class ExportConfig:
    """Write act(obs, noise) of a saved policy as StableHLO and ONNX, and check both on 1,000 observations."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """a run folder"""
    out: Path | None = None
    """folder for the files; none: RUN_DIR/export"""
    seed: int | None = None
    """which of the run's seeds; none: the first"""
    which: Literal["latest", "best"] = "latest"
    """which checkpoint: the newest, or the one with the seed's best evaluation return"""
    formats: tuple[Literal["stablehlo", "onnx"], ...] = ("stablehlo", "onnx")
    """one or both of stablehlo (for jax) and onnx (for onnxruntime; needs the extra `export`)"""

    def __post_init__(self):
        check_selection("formats", self.formats, ("stablehlo", "onnx"))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and export."""
    run_cli(parse, write, argv)


def parse(arguments: list[str]) -> ExportConfig:
    """The options, with the run folder, the seed and the packages checked before anything is restored."""
    from dipod_jax.export.errors import check_formats
    from dipod_jax.runs import RunFolder, check_writable
    from dipod_jax.serialisation import trained_config

    options = parse_options(ExportConfig, arguments, prog=command_name("export"))
    check_formats(options.formats)
    trained_config(RunFolder.open(options.run_dir), options.seed)
    check_writable(options.out or options.run_dir)
    return options


def write(options: ExportConfig) -> None:
    """Export, check in a process without this library, print what it found.

    Raises:
        ExportError: an exported file gives other actions than the library.
    """
    from dipod_jax.export import export_policy
    from dipod_jax.training.setup import import_mujoco, prepare_devices

    import_mujoco()
    prepare_devices()
    folder = export_policy(
        options.run_dir, options.out, seed=options.seed, which=options.which, formats=options.formats
    )
    check(folder)
    print(f"exported to {folder}: policy.json says how to call it")


def check(folder: Path) -> None:
    """Run the exported files in a fresh process and print difference and latency of each.

    Raises:
        ExportError: they cannot be run, or differ by more than the contract's tolerance.
    """
    from dipod_jax.export import ExportError, verify

    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [sys.executable, verify.__file__, str(folder)]
    ended = subprocess.run(command, env=environment | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2] or f"it ended with status {ended.returncode}"
        raise ExportError(f"{folder} is written, but cannot be run: {last}")
    found = json.loads(ended.stdout)
    examples = json.loads((folder / "policy.json").read_text(encoding="utf-8"))["examples"]
    for name, numbers in found.items():
        difference = numbers["max_difference"]
        print(
            f"{name}: {examples['count']} observations, actions within {difference:.1e} of the library's, "
            f"{numbers['microseconds_per_act']:.0f} us per act on this CPU"
        )
        if not difference <= examples["tolerance"]:
            raise ExportError(f"{folder}: {name} is {difference:.1e} away from the library, more than allowed")


if __name__ == "__main__":
    main()
