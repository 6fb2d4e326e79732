"""Command lines of studies: options of their own, those of `dipod train`, and a config for every arm."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dipod_jax.checks import check_selection, require
from dipod_jax.cli import run_cli
from dipod_jax.commands import train as train_command
from dipod_jax.config import Config, differences
from dipod_jax.runs import check_writable


def run_command(
    usage: str, parse: Callable[[list[str]], Any], main: Callable[[Any], None], argv: Sequence[str] | None
) -> None:
    """`run_cli` for a command whose options are those of `dipod train` and its own: --help prints `usage`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        run_cli(lambda _: usage, lambda text: print(text, end=""), arguments)
    else:
        run_cli(parse, main, arguments, lasts=True)


def parse_known(own: argparse.ArgumentParser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What `own` knows of the arguments, and the rest; raises ValueError, one line for the user."""
    try:
        return own.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error.argument_name}: {error.message}") from error


def split_arguments(
    arguments: list[str], listed: str, command: str, values: Sequence[str]
) -> tuple[list[str], Path, list[str]]:
    """The values after `--<listed>`, the folder of all arms, and what is left for `dipod train`.

    Args:
        arguments: of the command line.
        listed: name of the option that chooses arms.
        command: name of the command, for the default folder.
        values: the possible arms, all of them by default.

    Raises:
        ValueError: one line for the user.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument(f"--{listed}", nargs="*", default=list(values))
    own.add_argument("--out", type=Path, default=Path("runs") / command / time.strftime("%Y%m%d-%H%M%S"))
    known, rest = parse_known(own, arguments)
    chosen = getattr(known, listed)
    check_selection(listed, chosen, values)
    check_writable(known.out)
    return chosen, known.out, rest


def refuse_options(rest: Sequence[str], names: Sequence[str], why: str) -> None:
    """Refuse options of `dipod train` that a study sets itself, and to make one run of several processes."""
    given = {word.partition("=")[0] for word in rest}
    if "--distributed" in given:
        raise ValueError("--distributed is not an option here: it is one of dipod train")
    for name in names:
        if f"--{name}" in given:
            raise ValueError(f"--{name} is not an option here: {why}")


def parse_arm(rest: list[str], own: Sequence[str], out: Path) -> Config:
    """The config of one arm: `rest` is common to all, `own` comes after it; an arm begun before is resumed.

    Raises:
        ValueError: one line for the user; also if the arm was begun with other options, which would mix two experiments
            in one comparison.
    """
    if not (out / "config.json").exists():
        return train_command.parse([*rest, *own, "--out", str(out)])
    config = train_command.parse([*rest, *own, "--out", str(out), "--resume"])
    afresh = train_command.parse([*rest, *own])
    for name, (begun, now) in differences(config, afresh).items():
        what = f"{out} was begun with {begun}; give that, or name another --out"
        require(name in train_command.RESUMABLE, name, now, what)
    return config
