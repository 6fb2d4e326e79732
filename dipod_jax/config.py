"""Every option of a training run, with its unit and legal range. The options of objectives, regularisers and policies
are defined with them; this file puts them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

import tyro

from dipod_jax.advantages import ADVANTAGES
from dipod_jax.checks import Checked, check_choice, require
from dipod_jax.envs.tasks import TASKS, check_task
from dipod_jax.objectives import OBJECTIVES, Objective
from dipod_jax.policies import POLICIES, PolicyOptions
from dipod_jax.policies.critic import CriticOptions
from dipod_jax.regularisers import REGULARISERS, Regulariser

__all__ = ["TASKS", "Config"]

Preset = Literal["auto", "cpu", "paper", "smoke"]
Backend = Literal["auto", "native", "mjx", "warp"]

if TYPE_CHECKING:
    AnyObjective: TypeAlias = Objective
    AnyPolicy: TypeAlias = PolicyOptions
    Regularisers: TypeAlias = Any
else:  # what the command line chooses from; --objective says which one before its options are read
    AnyObjective = tyro.conf.AvoidSubcommands[Union[tuple(OBJECTIVES.values())]]  # noqa: UP007
    AnyPolicy = tyro.conf.AvoidSubcommands[Union[tuple(POLICIES.values())]]  # noqa: UP007
    Regularisers = dataclasses.make_dataclass(
        "Regularisers",
        [(n, cls, field(default_factory=cls)) for n, cls in REGULARISERS.items() if n != "dipod"],
        frozen=True,
    )


UNSTORED = {"stored": False}  # what a session is started with and no part of the run, nor of its config.json


def stored_fields(options: Any) -> list[str]:
    """Names of the fields of a dataclass of options that `config.json` holds."""
    return [f.name for f in dataclasses.fields(options) if f.metadata.get("stored", True)]


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is collected."""

    num_envs: int = 2048
    """B, environments in lock-step, >= 1"""
    num_steps: int = 480
    """T, steps of every environment per iteration, >= 1"""
    episode_length: int = 1000
    """steps after which a training episode is truncated, >= 1 and < 2^31 - 1; evaluation always takes 1000"""
    stagger: bool = False
    """start the environments at clock times spread over an episode"""
    observation_clip: float | None = None
    """bound on the absolute value of a normalised observation, in standard deviations, > 0; none: unbounded, as in the
    FPO code; 10 is common elsewhere and protects from outliers, but also cuts off sensors that are rarely active"""

    def __post_init__(self):
        check = Checked(self, "rollout")
        check.number("num_envs", "num_steps", low=1)
        check.number("episode_length", low=1, high=2**31 - 2)  # counted in 32 bits
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
    kl_target: float | None = None
    """KL of the present to the acting policy, mean over a minibatch, as the objective measures it
    (`Objective.divergence`), to which the learning rate is adapted: times 1.5 under half of it, by 1.5 over twice, from
    1e-5 to 1e-2; > 0; none: the rate is as scheduled"""
    reference_decay: float = 1.0
    """for objectives and regularisers with a reference policy, a running average of the policy: the weight of the old
    average at each iteration, in [0, 1]; 1 keeps the initial policy, 0 uses that of the last iteration"""

    def __post_init__(self):
        check = Checked(self, "learning")
        check_choice("learning.advantages", self.advantages, ADVANTAGES)
        check.number("minibatch_size", "unroll_length", "num_epochs", low=1)
        check.number("discount", "gae_lambda", "reference_decay", high=1.0)
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
    """Self-distillation phases (DiPOD, Algorithm 1), with beta or instead of it."""

    interval: int = 0
    """iterations between phases, each on a rollout before the update learns from it, >= 0; 0: none"""
    num_steps: int = 64
    """Adam steps of a phase, >= 1"""
    initial_iterations: int = 0
    """phases before training, on rollouts of the frozen initial policy (the released control code), >= 0"""
    learning_rate: float = 3e-4
    """Adam's step size in a phase, > 0"""
    minibatch_size: int = 2048
    """transitions per step on one device, >= 1"""
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


@dataclass(frozen=True)
class Config:
    """Train a policy on one of MuJoCo Playground's DM-Control tasks."""

    objective: AnyObjective = field(default_factory=OBJECTIVES["fpo"])
    """what the update maximises; chosen by --objective NAME"""
    policy: AnyPolicy = field(default_factory=POLICIES["flow"])
    """the acting network, of the family that the objective trains"""
    task: str = "BallInCup"
    """one of Playground's 25 DM-Control tasks, or module:factory of an `MjxEnv` of your own"""
    beta: float | Literal["auto"] = 0.0
    """DiPOD's weight of the mean CFM loss of the rollout's own samples, >= 0; 0 is the objective alone; auto adjusts it
    to the measured drift. A suitable value depends on --policy.loss-form and --policy.reduction"""
    preset: Preset = "auto"
    """the defaults of all other options: paper (those of the FPO code), cpu (learns in minutes on two cores), smoke
    (ends in a minute); auto takes paper on an accelerator, else cpu"""
    backend: Backend = "auto"
    """physics: native (MuJoCo's C engine on CPU threads), mjx (MuJoCo XLA), warp (MuJoCo Warp, CUDA); auto takes mjx on
    an accelerator, else native"""
    seeds: int = 1
    """number of seeds, 0 .. seeds - 1, trained in one program, >= 1"""
    seed_list: tuple[int, ...] | None = None
    """the seeds to train, each >= 0 and different; overrides --seeds"""
    total_steps: int = 60_000_000
    """env steps of each seed, >= 1; rounded up to whole iterations"""
    out: Path | None = None
    """run folder; default runs/<task>/<objective>-beta<beta>/<time>"""
    resume: bool = False
    """continue the run in --out from its newest checkpoint"""
    logger: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """event log, in addition to the files that are always written"""
    checkpoint_interval: float = 60.0
    """seconds between checkpoints, >= 0; one is always written at the end"""
    keep_checkpoints: int = 2
    """how many of the newest checkpoints to keep, >= 1; the best policy is kept as well, in checkpoints/best"""
    strict_resume: bool = False
    """with --resume: stop instead of falling back to an older checkpoint if the newest is damaged, or continuing from
    incomplete records"""
    distributed: bool = field(default=False, metadata=UNSTORED)
    """make one run of several processes, each started with the same options: docs/scaling.md"""
    coordinator: str | None = field(default=None, metadata=UNSTORED)
    """with --distributed: HOST:PORT of process 0; none: as Slurm, Open MPI, Kubernetes or the TPU pod has it"""
    num_processes: int | None = field(default=None, metadata=UNSTORED)
    """with --coordinator: how many processes, >= 1"""
    process_id: int | None = field(default=None, metadata=UNSTORED)
    """with --coordinator: which of them this is, 0 <= id < num-processes; 0 alone has the folder"""
    regularisers: Regularisers = field(default_factory=Regularisers)
    critic: CriticOptions = field(default_factory=CriticOptions)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    beta_control: BetaControlConfig = field(default_factory=BetaControlConfig)

    def __post_init__(self):
        check = Checked(self)
        check.choices()
        check_task(self.task)
        for part in (self.objective, self.policy, self.critic, *vars(self.regularisers).values()):
            part.validate()
        self._check_policy()
        self._check_beta()
        check.number("seeds", "total_steps", "keep_checkpoints", low=1)
        check.number("checkpoint_interval")
        if self.seed_list is not None:
            seeds = self.seed_list
            distinct = len(seeds) >= 1 and min(seeds) >= 0 and len(set(seeds)) == len(seeds) and max(seeds) < 2**31
            require(distinct, "seed-list", " ".join(map(str, seeds)), "one or more different numbers, 0 <= seed < 2^31")
        self._check_batch()
        self._check_processes()
        require(
            not self.resume or self.out is not None, "resume", self.resume, "only with --out, the folder of the run"
        )

    def _check_processes(self) -> None:
        """Check that the processes of a run are named wholly or not at all."""
        where, count, index = self.coordinator, self.num_processes, self.process_id
        for name in ("coordinator", "num_processes", "process_id"):
            given = getattr(self, name) is not None
            Checked(self).require(self.distributed or not given, name, "only with --distributed")
            together = given == (where is not None)
            Checked(self).require(together, name, "together with --coordinator, --num-processes and --process-id")
        if where is None or count is None or index is None:
            return
        host, _, port = where.rpartition(":")
        Checked(self).require(host != "" and port.isdecimal() and 0 < int(port) < 2**16, "coordinator", "HOST:PORT")
        Checked(self).number("num_processes", low=1)
        Checked(self).number("process_id", high=count - 1)

    def _check_policy(self) -> None:
        """Check that objective, policy and regularisers fit together."""
        objective, policy = self.objective, self.policy
        fits = policy.name == objective.policy
        require(fits, "policy", policy.name, f"{objective.policy}, which the objective {objective.name} trains")
        if objective.exact_action:
            policy.check_exact_action()
        what = f"none with the objective {objective.name}: it does not compare with the acting policy"
        measured = objective.has_divergence or self.learning.kl_target is None
        Checked(self.learning, "learning").require(measured, "kl_target", what)
        for regulariser in vars(self.regularisers).values():
            what = f"0 with the objective {objective.name}: its {policy.name} policy has no {regulariser.needs}"
            possible = regulariser.weight == 0 or regulariser.needs is None or policy.offers(regulariser.needs)
            require(possible, f"regularisers.{regulariser.name}.weight", regulariser.weight, what)
            if regulariser.weight != 0:
                regulariser.check_policy(policy)

    def _check_beta(self) -> None:
        """Check that beta and distillation have a bound, and an automatic beta a measured gap."""
        no_bound = f"with the objective {self.objective.name}: its likelihood is exact, there is no bound to hold"
        if self.beta == "auto":
            measured = self.policy.has_field and self.drift.interval > 0
            require(
                measured,
                "beta",
                "auto",
                f"a number where no drift is measured (objective {self.objective.name}, or drift.interval 0)",
            )
        else:
            Checked(self).number("beta")
            require(self.policy.has_bound or self.beta == 0, "beta", self.beta, f"0 {no_bound}")
        for name in ("interval", "initial_iterations"):
            Checked(self.distillation, "distillation").require(
                self.policy.has_field or getattr(self.distillation, name) == 0, name, f"0 {no_bound}"
            )

    def _check_batch(self) -> None:
        """Check that minibatches and segments divide the rollout."""
        rollout, learning = self.rollout, self.learning
        batch = rollout.num_envs * rollout.num_steps
        check = Checked(learning, "learning")
        what = f"a divisor of rollout.num-envs * rollout.num-steps = {batch}"
        check.require(batch % learning.minibatch_size == 0, "minibatch_size", what)
        what = f"0 where rollout.num-envs * rollout.num-steps = {batch} is less than 16"
        Checked(self.drift, "drift").require(self.drift.interval == 0 or batch >= 16, "interval", what)
        if ADVANTAGES[learning.advantages].per_minibatch:
            unroll = learning.unroll_length
            what = f"a divisor of rollout.num-steps = {rollout.num_steps}"
            check.require(rollout.num_steps % unroll == 0, "unroll_length", what)
            what = f"a multiple of learning.unroll-length = {unroll}"
            check.require(learning.minibatch_size % unroll == 0, "minibatch_size", what)

    @property
    def active_regularisers(self) -> dict[str, Regulariser]:
        """The regularisers in the loss: DiPOD for every policy with a bound, even at beta 0, and those with a
        weight."""
        chosen = {name: r for name, r in vars(self.regularisers).items() if r.weight != 0}
        return chosen | ({"dipod": REGULARISERS["dipod"](self.initial_beta)} if self.policy.has_bound else {})

    @property
    def needs_reference(self) -> bool:
        """Whether a reference policy is kept."""
        others = self.active_regularisers.values()
        return self.objective.needs_reference or any(r.needs_reference for r in others)

    @property
    def columns_per_minibatch(self) -> int:
        """Transitions of a minibatch, or segments where advantages are computed in it."""
        segments = ADVANTAGES[self.learning.advantages].per_minibatch
        return self.learning.minibatch_size // (self.learning.unroll_length if segments else 1)

    @property
    def default_out(self) -> Path:
        """The parent folder of such runs if none is named."""
        return Path("runs") / self.task.replace(":", ".") / f"{self.objective.name}-beta{self.beta_label}"

    @property
    def initial_beta(self) -> float:
        """The number that beta starts at."""
        return self.beta_control.initial if self.beta == "auto" else float(self.beta)

    @property
    def beta_label(self) -> str:
        """Beta as used in names: `0.002` or `auto`."""
        return self.beta if isinstance(self.beta, str) else f"{self.beta:g}"

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds to train, in order."""
        return self.seed_list if self.seed_list is not None else tuple(range(self.seeds))

    @property
    def steps_per_iteration(self) -> int:
        """Env steps of one seed between two updates of the rollout policy."""
        return self.rollout.num_envs * self.rollout.num_steps

    @property
    def num_iterations(self) -> int:
        """Iterations that reach `total_steps`."""
        return -(-self.total_steps // self.steps_per_iteration)

    @property
    def planned_steps(self) -> int:
        """Env steps of one seed when training ends: `total_steps` rounded up to whole iterations."""
        return self.num_iterations * self.steps_per_iteration


def differences(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Options in which two configs differ, by command-line name."""
    if type(a) is not type(b):
        return {prefix.rstrip("."): (a.name, b.name)}
    found: dict[str, tuple[Any, Any]] = {}
    for field_name in stored_fields(a):
        left, right, name = getattr(a, field_name), getattr(b, field_name), prefix + field_name.replace("_", "-")
        if dataclasses.is_dataclass(left):
            found |= differences(left, right, name + ".")
        elif left != right:
            found[name] = (left, right)
    return found


def check_unchanged(stored: Any, given: Any, changeable: Collection[str]) -> None:
    """Refuse to resume a run with an option that is not its own; `changeable` ones, by command-line name, may differ.

    Raises:
        ValueError: one line.
    """
    for name, (was, now) in differences(stored, given).items():
        if name not in changeable:
            where = f"the run in {given.out} was started with {was}; leave it out, or name another --out"
            raise ValueError(f"--{name} {now} is not allowed with --resume: {where}")
