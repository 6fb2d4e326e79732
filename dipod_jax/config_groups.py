"""The options of a run's parts, a group each: rollout, learning, evaluation, the drift meter, distillation, beta."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dipod_jax.advantages import ADVANTAGES
from dipod_jax.checks import Checked, check_choice


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is collected."""

    num_envs: int = 2048
    """B, environments in lock-step, >= 1"""
    num_steps: int = 480
    """T, steps of every environment per iteration, >= 1"""
    episode_length: int = 1000
    """steps after which a training episode is truncated, >= 1 and < 2^31 - 1; evaluation always takes 1000"""
    terminate_below: float | None = field(default=None, metadata={"earlier": None})
    """reward of a step under which a training episode is terminated, so that nothing after it counts; none: never. For
    tasks on which what is lost does not come back. Evaluation goes on"""
    stagger: bool = False
    """start the environments at different times of an episode, so that they are not all reset at once"""
    observation_clip: float | None = None
    """bound on the absolute value of a normalised observation, in standard deviations, > 0; none: unbounded, as in the
    FPO code; 10 is common elsewhere and protects from outliers, but also cuts off sensors that are rarely active"""

    def __post_init__(self):
        check = Checked(self, "rollout")
        check.number("num_envs", "num_steps", low=1)
        check.number("episode_length", low=1, high=2**31 - 2)  # counted in 32 bits
        check.number("terminate_below", low=-1e10, high=1e10)  # no reward is outside
        check.positive("observation_clip")


@dataclass(frozen=True)
class LearningConfig:
    """How parameters are updated."""

    learning_rate: float = 3e-4
    """Adam's step size for policy and critic, > 0"""
    final_learning_rate: float | None = None
    """step size at the end of training, reached linearly, > 0; none: constant"""
    minibatch_size: int = 30720
    """transitions per gradient step; divides num_envs * num_steps"""
    unroll_length: int = 30
    """length of the segments that stay together when advantages are computed per minibatch; divides num_steps"""
    num_epochs: int = 16
    """passes over one rollout, >= 1"""
    advantages: str = "minibatch"
    """minibatch: compute GAE in every minibatch with the current critic, ignoring truncated steps (Brax); iteration:
    once per iteration, bootstrapping from the true next observation"""
    discount: float = 0.995
    """gamma per control step, 0 <= gamma <= 1"""
    gae_lambda: float = 0.95
    """lambda of the generalised advantage estimator, 0 <= lambda <= 1"""
    reward_scale: float = 10.0
    """factor on rewards before the advantages, > 0"""
    value_coefficient: float = 0.25
    """weight of the squared value error, > 0"""
    advantage_clip: float | None = None
    """bound on |normalised advantage|, > 0; none: unbounded"""
    policy_gradient_clip: float | None = None
    """bound on the policy gradient's global norm, > 0; none: unbounded"""
    critic_gradient_clip: float | None = None
    """bound on the critic gradient's global norm, > 0; none: unbounded"""
    critic_second_moment_decay: float = field(default=0.999, metadata={"earlier": 0.999})
    """beta_2 of the critic's Adam, 0 <= beta_2 < 1. At .9, which is beta_1, no step is larger than the rate, so that a
    critic which learns from its own values does not outrun them; at .999 a step that follows growing gradients can be
    seven times as large"""
    kl_target: float | None = None
    """target for the KL from the acting to the current policy, as the objective measures it (`Objective.divergence`),
    mean over a minibatch, > 0. The learning rate is multiplied by 1.5 if the KL is below half the target and divided by
    1.5 if it is above twice the target, within [1e-5, 1e-2]. None: the rate follows its schedule"""
    reference_decay: float = 1.0
    """decay of the reference policy, a running average of the policy that some objectives and regularisers use, in [0,
    1]: 1 keeps the initial policy, 0 takes that of the last iteration"""

    def __post_init__(self):
        check = Checked(self, "learning")
        check_choice("learning.advantages", self.advantages, ADVANTAGES)
        check.number("minibatch_size", "unroll_length", "num_epochs", low=1)
        check.number("discount", "gae_lambda", "reference_decay", high=1.0)
        decay = self.critic_second_moment_decay
        check.require(0.0 <= decay < 1.0, "critic_second_moment_decay", "a number in [0, 1)")
        check.positive("learning_rate", "final_learning_rate", "reward_scale", "value_coefficient")
        check.positive("advantage_clip", "policy_gradient_clip", "critic_gradient_clip", "kl_target")
        what = "none with --learning.kl-target, by which the rate is set"
        check.require(self.kl_target is None or self.final_learning_rate is None, "final_learning_rate", what)


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on episodes of 1000 steps with random base noise, and as many with base noise 0 (for `ppo`: the mean
    action)."""

    num_episodes: int = 128
    """episodes of each kind after the last update, >= 1"""
    num_episodes_during: int = 128
    """episodes of each kind in earlier evaluations, >= 1"""
    interval: int = 6_000_000
    """env steps between evaluations, >= 1"""

    def __post_init__(self):
        Checked(self, "evaluation").number("num_episodes", "num_episodes_during", "interval", low=1)


@dataclass(frozen=True)
class DriftConfig:
    """The drift meter: exact likelihood, bound and gradients on a held-out slice of the rollout."""

    interval: int = 25
    """iterations between measurements, >= 0; 0 switches the meter off"""
    num_samples: int = 512
    """transitions per measurement, >= 16, even; at most the whole rollout"""

    def __post_init__(self):
        check = Checked(self, "drift")
        check.number("interval")
        check.require(self.num_samples >= 16 and self.num_samples % 2 == 0, "num_samples", "an even number >= 16")


@dataclass(frozen=True)
class DistillationConfig:
    """Self-distillation phases (DiPOD, Algorithm 1), with beta or instead of it.

    The update that follows a phase takes the distilled policy for the one that acted, and a reference policy is not
    distilled.
    """

    interval: int = 0
    """iterations between phases, >= 0; 0: none. A phase uses a rollout before the update learns from it"""
    num_steps: int = 64
    """Adam steps of a phase, >= 1"""
    initial_iterations: int = 0
    """phases before training, on rollouts of the frozen initial policy (the released control code), >= 0"""
    learning_rate: float = 3e-4
    """Adam's step size in a phase, > 0"""
    minibatch_size: int = 2048
    """transitions per step, >= 1"""
    actions: Literal["rollout", "redrawn"] = "rollout"
    """rollout: the actions that were taken; redrawn: new actions in the same states, which are samples of the policy
    even if the ones taken are clipped, perturbed, or made from noise that is correlated between steps"""
    target: Literal["fresh-noise", "pre-image"] = "fresh-noise"
    """the noise an action is paired with: fresh noise (the CFM loss), or pre-image, the base noise that the sampler
    made it from, which preserves the spread but loosens the bound"""

    def __post_init__(self):
        check = Checked(self, "distillation")
        check.choices()
        check.number("interval", "initial_iterations")
        check.number("num_steps", "minibatch_size", low=1)
        check.positive("learning_rate")

    @property
    def enabled(self) -> bool:
        """Whether any phase is run."""
        return self.interval > 0 or self.initial_iterations > 0


@dataclass(frozen=True)
class BetaControlConfig:
    """The controller behind `--beta auto`: it holds the measured gap near a target.

    At every measurement beta is multiplied by gap / target, at most by `rise` and at least by 1 / `release`. The gap
    responds with a delay, and once open it is hard to close, so beta starts high, rises fast and falls slowly. The
    controller uses the mean, since a gap opens in its tail first, which the median does not see (docs/drift.md).
    """

    gap_target: float = 1.5
    """nats per action dimension of log-likelihood minus ELBO (mean over samples), > 0"""
    rise: float = 10.0
    """largest factor on beta when the gap is above the target, > 1"""
    release: float = 1.05
    """largest divisor of beta when the gap is below the target, > 1"""
    initial: float = 0.05
    """first value of beta, > 0"""
    minimum: float = 2e-3
    """smallest beta, > 0"""
    maximum: float = 1.0
    """largest beta, at least the smallest"""

    def __post_init__(self):
        check = Checked(self, "beta_control")
        check.positive("gap_target", "minimum")
        check.number("rise", "release", low=1.0, open_low=True)
        check.number("maximum", low=self.minimum)
        check.number("initial", low=self.minimum, high=self.maximum)
