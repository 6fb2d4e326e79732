"""The recipe with a part removed or replaced: which parts there are, and which of them a task's recipe lacks anyway."""

from collections.abc import Mapping

from dipod_jax.config import Config, differences

RECIPE = "recipe"
# Part -> command-line options that take it out of the `cpu` preset, or put another in its place.
PARTS: dict[str, tuple[str, ...]] = {
    RECIPE: (),
    "no-beta": ("--beta", "0"),
    "beta-auto": ("--beta", "auto"),
    "beta-0.02": ("--beta", "0.02"),
    "clip": ("--objective.negative-advantages", "clip", "--objective.clip-epsilon", "0.05"),
    "no-loss-clamp": ("--objective.negative-loss-clamp", "None"),
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
    "1-draw": ("--policy.num-draws", "1"),
    "4-draws": ("--policy.num-draws", "4"),
    "8-draws": ("--policy.num-draws", "8"),
    "small-critic": ("--critic.hidden-sizes", "64", "64", "64"),
}


def without_effect(arms: Mapping[str, Config], recipe: Config) -> list[str]:
    """The parts whose arm is `recipe` itself: the task's recipe has what they would put in its place."""
    return [part for part, arm in arms.items() if part != RECIPE and set(differences(recipe, arm)) <= {"out", "resume"}]
