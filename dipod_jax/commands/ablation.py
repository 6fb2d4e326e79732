"""The recipe with a part removed or replaced: `dipod ablation --task BallInCup --seeds 3`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dipod_jax.checks import require
from dipod_jax.commands._arms import parse_arm, refuse_options, run_command, split_arguments
from dipod_jax.config import Config
from dipod_jax.studies.ablation import PARTS, RECIPE, without_effect
from dipod_jax.studies.arms import run_arms

STARTED = time.perf_counter()
USAGE = f"""usage: dipod ablation [--parts PART [PART ...]] [--out DIR] [options of dipod train]

Train the `cpu` preset, and the same with one part at a time removed or replaced, each into DIR/<part>. Then draw
DIR/returns.png and DIR/drift.png. The parts, by default all those that differ from the task's recipe:
{", ".join(PARTS)}.
To continue an ablation that was stopped, give the same command again: finished runs are kept, the others are continued.
`dipod train --help` lists the other options.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and run the ablation."""
    run_command(USAGE, parse, ablate, argv)


def parse(arguments: list[str]) -> dict[str, Config]:
    """One config per part; all of them validated before the first run."""
    parts, out, rest = split_arguments(arguments, "parts", "ablation", tuple(PARTS))
    refuse_options(rest, ("preset", "resume"), "an ablation is of the cpu preset, and one that was stopped goes on")
    arms = {part: parse_arm(["--preset", "cpu", *rest], PARTS[part], out / part) for part in parts}
    recipe = parse_arm(["--preset", "cpu", *rest], (), out / RECIPE)
    idle = without_effect(arms, recipe)
    asked_for = idle and parts != list(PARTS)
    require(not asked_for, "parts", " ".join(idle), f"the recipe of {recipe.task} has it already")
    return {part: config for part, config in arms.items() if part not in idle}


def ablate(arms: dict[str, Config]) -> None:
    """Run what is not finished, then compare."""
    run_arms(arms, started=STARTED, one_program=False)


if __name__ == "__main__":
    main()
