"""The units that a command line of a sweep asks for."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from dipod_jax.checks import check_selection, require
from dipod_jax.commands import language as language_command
from dipod_jax.commands import train as train_command
from dipod_jax.commands._arms import parse_known, refuse_options
from dipod_jax.envs.tasks import folder_name
from dipod_jax.language import TASKS as LANGUAGE_TASKS
from dipod_jax.studies.sweep.plan import UNITS, Unit, make_unit
from dipod_jax.studies.sweep.rooms import AnyConfig

MOST_UNITS = 10_000  # of one command: each is a process's work, and a line on the screen
OWNED = {"task": "use --tasks", "objective": "use --objectives", "beta": "use --betas"}
SESSIONS = ("resume", "out", "seeds", "seed-list", "logger", "distributed", "preset", "backend", "strict-resume")
SESSIONS += ("first-seed", "cache")


def launch_options() -> argparse.ArgumentParser:
    """A parser of where the runs of a plan lie and who trains them."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument("--out", type=Path)
    own.add_argument("--launcher", default="local")
    own.add_argument("--ray-address")
    own.add_argument("--shard", nargs="?", const="")
    own.add_argument("--workers", type=int)
    own.add_argument("--dry-run", action="store_true")
    return own


def own_options(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of a sweep, and what is left for `dipod train` or `dipod language`."""
    own = launch_options()
    for name in ("task", "objective"):
        own.add_argument(f"--{name}s", f"--{name}", nargs="*", action="append", dest=f"{name}s")
    own.add_argument("--betas", nargs="*")
    own.add_argument("--grid", nargs="*", action="append", default=[])
    known, rest = parse_known(own, arguments)
    for name, default in (("tasks", "BallInCup"), ("objectives", "fpo")):
        given = getattr(known, name)
        values = [default] if given is None else list(itertools.chain(*given))
        check_selection(name, values)
        setattr(known, name, values)
    if known.betas is not None:
        check_selection("betas", known.betas)
    if known.out is None:
        known.out = default_out(known.tasks)
    return known, rest


def default_out(tasks: Sequence[str]) -> Path:
    """`runs/sweep/<tasks>`: the same for the same tasks, so that the same command goes on and another extends it."""
    name = "-".join(map(folder_name, tasks)) if len(tasks) <= 4 else f"{len(tasks)}-tasks"
    return Path("runs") / "sweep" / name


def check_rest(rest: Sequence[str]) -> None:
    """Refuse options of a single run that a sweep sets itself."""
    refuse_options(rest, ("beta", "resume"), "use --betas; a sweep that was stopped goes on with the same command")
    check_seeds(rest)


def check_seeds(rest: Sequence[str]) -> None:
    """Refuse two ways of naming the seeds."""
    given = {word.partition("=")[0] for word in rest}
    both = {"--seeds", "--seed-list"} <= given
    require(not both, "seeds", "with --seed-list", "one of the two")


def plan_units(own: argparse.Namespace, rest: list[str]) -> list[Unit]:
    """A unit for every task, objective, point of the grid and beta, in this order.

    Raises:
        ValueError: one line: a value that is not allowed, or two units that are the same.
    """
    num_units = len(own.tasks) * len(own.objectives) * len(own.betas or "1")
    num_units *= math.prod(max(1, len(grid) - 1) for grid in own.grid)
    require(num_units <= MOST_UNITS, "grid", f"of {num_units} runs", f"at most {MOST_UNITS} in one command")
    points, parse = grid_points(own.grid), parser_of(own.tasks)
    units: list[Unit] = []
    for task, objective, point in itertools.product(own.tasks, own.objectives, points):
        words = [word for name, value in point.items() for word in option_words(name, value)]
        chosen = ["--task", task, "--objective", objective, "--out", str(own.out / UNITS / "new")]
        config = parse([*rest, *words, *chosen])
        units += [make_unit(own.out, arm, point, shlex.join(rest)) for arm in with_betas(config, own.betas)]
    repeated = [unit for unit, count in Counter(unit.id for unit in units).items() if count > 1]
    same = next((unit for unit in units if unit.id in repeated), None)
    if same is not None and own.grid:
        values = " ".join(f"{name} {value}" for name, value in same.grid.items())
        require(False, "grid", values, "values that differ in what is trained")
    return units


def parser_of(tasks: Sequence[str]) -> Callable[[list[str]], AnyConfig]:
    """The parser of the command that trains one run of these tasks.

    Raises:
        ValueError: one line: they are of two commands.
    """
    of_language = [task for task in tasks if task in LANGUAGE_TASKS]
    if not of_language:
        return train_command.parse
    known = ", ".join(LANGUAGE_TASKS)
    other = next((task for task in tasks if task not in LANGUAGE_TASKS), "")
    require(not other, "tasks", other, f"with {of_language[0]} those of dipod language: {known}")
    return language_command.parse


def with_betas(config: AnyConfig, betas: Sequence[str] | None) -> list[AnyConfig]:
    """The config with every beta; with its own where none are given."""
    if betas is None:
        return [config]
    configs = [dataclasses.replace(config, beta=_beta(text)) for text in betas]
    check_selection("betas", [config.beta_label for config in configs])
    return configs


def _beta(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--betas {text} is not allowed: numbers, or auto") from None


def grid_points(grids: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the values of all --grid options: option -> value.

    Raises:
        ValueError: no values, an option twice or one that is no part of a grid.
    """
    axes: dict[str, list[str]] = {}
    for name, *values in (grid or [""] for grid in grids):
        name = name.removeprefix("--")
        require(bool(name and values), "grid", name or "without a value", "an option and one or more values")
        require(name not in axes, "grid", name, "each option once")
        require(name not in OWNED, "grid", name, OWNED.get(name, ""))
        require(name not in SESSIONS, "grid", name, "an option that changes what is learned; this one is common to all")
        check_selection(f"grid {name}", values)
        axes[name] = values
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def option_words(name: str, value: str) -> list[str]:
    """An option and its value as words of a command line: commas part words, a flag is True or False."""
    if value in ("True", "False"):
        group, _, last = name.rpartition(".")
        return [f"--{group}{'.' if group else ''}{'' if value == 'True' else 'no-'}{last}"]
    return [f"--{name}", *value.split(",")]
