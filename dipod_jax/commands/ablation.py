"""The recipe with a part removed or replaced: `dipod ablation --task BallInCup --seeds 3`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from dipod_jax.checks import check_selection, require
from dipod_jax.commands import train as train_command
from dipod_jax.commands._arms import parse_known, refuse_options, run_command
from dipod_jax.commands._units import check_seeds, launch_options
from dipod_jax.commands.sweep import Request, check_launch, make_request, sweep
from dipod_jax.envs.tasks import folder_name
from dipod_jax.studies.ablation import PARTS, without_effect
from dipod_jax.studies.sweep.plan import UNITS, make_unit

USAGE = f"""usage: dipod ablation [--parts PART [PART ...]] [--out DIR] [--launcher LAUNCHER] [--workers N]
                      [--shard [i/n]] [--ray-address ADDRESS] [--dry-run] [options of dipod train]

Train the `cpu` preset, and the same with one part at a time removed or replaced: a sweep over the parts, which lie, are
launched, continued and reported as those of `dipod sweep` (default DIR: runs/ablation/ and the task). The parts, by
default all those that differ from the task's recipe:
{", ".join(PARTS)}.
`dipod sweep --help` says what the options of launching do, `dipod train --help` lists the others.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and run the ablation."""
    run_command(USAGE, parse, sweep, argv)


def parse(arguments: list[str]) -> Request:
    """One unit per part; all of them validated before the first run."""
    own = launch_options()
    own.add_argument("--parts", nargs="*", default=list(PARTS))
    known, rest = parse_known(own, arguments)
    check_selection("parts", known.parts, tuple(PARTS))
    refuse_options(rest, ("preset", "resume"), "an ablation is of the cpu preset, and one that was stopped goes on")
    check_seeds(rest)
    anywhere = known.out or Path("runs") / "ablation"
    with_part = lambda words: ["--preset", "cpu", *rest, *words, "--out", str(anywhere / UNITS / "new")]
    recipe = train_command.parse(with_part(()))
    out = known.out or anywhere / folder_name(recipe.task)
    check_launch(known, out)
    arms = {part: train_command.parse(with_part(PARTS[part])) for part in known.parts}
    idle = without_effect(arms, recipe)
    asked_for = idle and known.parts != list(PARTS)
    require(not asked_for, "parts", " ".join(idle), f"the recipe of {recipe.task} has it already")
    options = shlex.join(rest)
    units = [make_unit(out, arm, {"part": part}, options) for part, arm in arms.items() if part not in idle]
    return make_request(known, out, units)


if __name__ == "__main__":
    main()
