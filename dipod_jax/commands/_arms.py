"""Command lines of studies: options of their own beside those of `dipod train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dipod_jax.cli import run_cli


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


def refuse_options(rest: Sequence[str], names: Sequence[str], why: str) -> None:
    """Refuse options of `dipod train` that a study sets itself, and to make one run of several processes."""
    given = {word.partition("=")[0] for word in rest}
    if "--distributed" in given:
        raise ValueError("--distributed is not an option here: it is one of dipod train")
    for name in names:
        if f"--{name}" in given:
            raise ValueError(f"--{name} is not an option here: {why}")
