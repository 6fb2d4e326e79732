"""A saved policy, evaluated anew: `dipod evaluate RUN_DIR`.

What is measured depends on what the folder is of, and so do the options: a control policy's return and a film, or a
language policy's accuracy and its boards, step by step.
"""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dipod_jax.checks import check_choice
from dipod_jax.cli import run_cli
from dipod_jax.runs import RunFolder, RunFolderError

MODULES = {"control": "dipod_jax.commands._evaluate_control", "language": "dipod_jax.commands._evaluate_language"}
"""What a run folder's config calls its kind -> the module that evaluates it, with `parse` and `evaluate`."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and evaluate."""
    run_cli(parse, lambda chosen: chosen[0].evaluate(chosen[1]), argv)


def parse(arguments: list[str]) -> tuple[Any, Any]:
    """The module of the run's kind and its options, checked before physics is imported."""
    module = import_module(MODULES[kind_of(arguments)])
    return module, module.parse(arguments)


def kind_of(arguments: Sequence[str]) -> str:
    """The kind of the run folder among the arguments; control where there is none, whose options then say so."""
    for argument in arguments:
        # unlike `Path.is_file`, false also of a name that no file can have
        if not argument.startswith("-") and os.path.isfile(os.path.join(argument, "config.json")):
            try:
                room = RunFolder.open(Path(argument)).room
            except RunFolderError:
                continue
            check_choice("room", room, MODULES)
            return room
    return "control"


if __name__ == "__main__":
    main()
