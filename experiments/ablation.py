"""The recipe with a part removed or replaced: `python -m experiments.ablation --task BallInCup --seeds 3`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dipod_jax.config import Config, differences
from experiments._arms import parse_arm, run_arms, run_command, split_arguments

STARTED = time.perf_counter()
# What takes a part of the `cpu` preset away, or puts another in its place.
PARTS: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "no-beta": ("--beta", "0"),
    "beta-auto": ("--beta", "auto"),
    "beta-0.02": ("--beta", "0.02"),
    "clip": ("--fpo.negative-advantages", "clip", "--fpo.clip-epsilon", "0.05"),
    "no-loss-clamp": ("--fpo.negative-loss-clamp", "None"),
    "small-rollouts": ("--rollout.num-envs", "256", "--rollout.num-steps", "32"),
    "large-rollouts": ("--rollout.num-envs", "512", "--rollout.num-steps", "64"),
    "advantages-once": ("--learning.advantages", "iteration"),
    "advantages-often": ("--learning.advantages", "minibatch"),
    "narrow-policy": ("--policy.hidden-sizes", "32", "32", "32", "32"),
    "no-correlation": ("--policy.noise-correlation", "0"),
    "no-action-noise": ("--policy.action-noise", "0"),
    "less-action-noise": ("--policy.action-noise", "0.1"),
    "no-action-clip": ("--policy.action-clip", "None"),
    "no-advantage-clip": ("--learning.advantage-clip", "None"),
    "no-gradient-clip": ("--learning.policy-gradient-clip", "None"),
    "no-rate-decay": ("--learning.final-learning-rate", "None"),
    "no-short-episodes": ("--rollout.episode-length", "1000"),
    "no-stagger": ("--rollout.no-stagger",),
    "euler": ("--policy.sampler", "euler", "--policy.num-steps", "10"),
    "grid-draws": ("--policy.draws", "grid"),
    "2-draws": ("--policy.num-draws", "2"),
    "4-draws": ("--policy.num-draws", "4"),
    "8-draws": ("--policy.num-draws", "8"),
    "small-critic": ("--critic.hidden-sizes", "64", "64", "64"),
}
USAGE = f"""usage: python -m experiments.ablation [--parts PART [PART ...]] [--out DIR] [options of experiments.train]

Train the `cpu` preset and the same with one part removed or replaced, each into DIR/<part>, one after the other, then
draw DIR/returns.png and DIR/drift.png. Parts, by default all that change the task's recipe:
{", ".join(PARTS)}.
A run that is finished is left as it is and one that is not is continued. `python -m experiments.train --help` lists the
other options.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse a command line and run the ablation."""
    run_command(USAGE, parse, ablate, argv)


def parse(arguments: list[str]) -> dict[str, Config]:
    """One config per part; all of them validated before the first run."""
    parts, out, rest = split_arguments(arguments, "parts", "ablation", tuple(PARTS))
    if any(option.split("=")[0] in ("--resume", "--preset") for option in rest):
        raise ValueError("--preset and --resume are not options of an ablation: it is of the cpu preset, and resumes")
    arms = {part: parse_arm(["--preset", "cpu", *rest], PARTS[part], out / part) for part in parts}
    recipe = parse_arm(["--preset", "cpu", *rest], (), out / "recipe")
    is_recipe = lambda config: set(differences(recipe, config)) <= {"out", "resume"}
    idle = [part for part, config in arms.items() if PARTS[part] and is_recipe(config)]
    if idle and parts != list(PARTS):
        raise ValueError(f"--parts {' '.join(idle)} is not allowed: the recipe of {recipe.task} has it already")
    return {part: config for part, config in arms.items() if part not in idle}


def ablate(arms: dict[str, Config]) -> None:
    """Run what is not finished, then compare."""
    run_arms(arms, started=STARTED, one_program=False)


if __name__ == "__main__":
    main()
