"""Every option of a training run, with its unit and legal range; validated without importing jax."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from dipod_jax.envs.tasks import TASKS as TASKS
from dipod_jax.envs.tasks import check_task

Preset = Literal["auto", "cpu", "paper", "smoke"]
Backend = Literal["auto", "native", "mjx", "warp"]
ObjectiveName = Literal["fpo", "exact-ppo", "ppo"]


def require(allowed: bool, flag: str, value: Any, what: str) -> None:
    """Raise the one-line error that a command line shows: the flag, its value, what is allowed."""
    if not allowed:
        raise ValueError(f"--{flag} {value} is not allowed: {what}")


def _check_number(flag: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    inside = abs(value) < 2**63 and value <= high and (value > low if open_low else value >= low)
    bound = f"{'more than' if open_low else 'at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
    require(inside, flag, value, f"a finite number, {bound}")


def _check_positive_or_none(config: Any, group: str, *names: str) -> None:
    for name in names:
        if (value := getattr(config, name)) is not None:
            _check_number(f"{group}.{name.replace('_', '-')}", value, 0.0, open_low=True)


def check_choice(flag: str, value: Any, choices: Any) -> None:
    """Raise ValueError, one line, unless `value` is one of those of the `Literal` type `choices`."""
    require(value in get_args(choices), flag, value, f"one of {', '.join(get_args(choices))}")


def _check_choices(config: Any, group: str = "") -> None:
    """Hold every `Literal` field against what its type allows: a misspelt choice must not mean another."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal:
            check_choice(f"{group}{name}".replace("_", "-"), getattr(config, name), hint)


@dataclass(frozen=True)
class FpoConfig:
    """Flow policy optimization: a clipped ratio of CFM losses (arXiv 2507.21053; FPO++: arXiv 2602.02481)."""

    clip_epsilon: float = 0.05
    """half width of the ratio's trust region, > 0"""
    ratio: Literal["average", "per-draw"] = "average"
    """average the N draws' losses before the exponential, or take one ratio a draw"""
    negative_advantages: Literal["clip", "spo"] = "clip"
    """what bounds a sample of negative advantage: PPO's clip, or FPO++'s quadratic pull to the trust region (ASPO)"""
    log_ratio_clip: float | None = None
    """bound on |log ratio| before the exponential, > 0; none: unbounded"""
    negative_loss_clamp: float | None = None
    """CFM loss over which a sample of negative advantage takes no part, but for beta's, > 0; none: all do"""

    def __post_init__(self):
        _check_choices(self, "fpo.")
        _check_number("fpo.clip-epsilon", self.clip_epsilon, 0.0, open_low=True)
        _check_positive_or_none(self, "fpo", "log_ratio_clip", "negative_loss_clamp")
        bounded = self.negative_advantages != "spo" or self.log_ratio_clip is not None
        require(bounded, "fpo.negative-advantages", "spo", "clip, or with --fpo.log-ratio-clip (3, say): it squares")


@dataclass(frozen=True)
class PpoConfig:
    """Proximal policy optimization on a likelihood (arXiv 1707.06347): of a Gaussian policy, or a flow's exact one."""

    clip_epsilon: float = 0.1
    """half width of the ratio's trust region, > 0"""
    entropy_cost: float = 1e-2
    """weight of the squashed Gaussian policy's entropy, >= 0; a flow has none"""

    def __post_init__(self):
        _check_number("ppo.clip-epsilon", self.clip_epsilon, 0.0, open_low=True)
        _check_number("ppo.entropy-cost", self.entropy_cost, 0.0)


@dataclass(frozen=True)
class PolicyConfig:
    """The acting network; for `ppo` what is about flows (sampler, draws, loss, time, output scale) does not count."""

    hidden_sizes: tuple[int, ...] = (32, 32, 32, 32)
    """widths of the hidden layers, each >= 1"""
    activation: Literal["silu", "tanh", "relu", "gelu"] = "silu"
    """nonlinearity between layers"""
    num_steps: int = 10
    """K, steps of the sampler, >= 1"""
    sampler: Literal["euler", "midpoint", "heun"] = "euler"
    """integration method; midpoint and heun evaluate the network twice a step"""
    num_draws: int = 8
    """N, (t, eps) draws stored per action, >= 1"""
    draws: Literal["monte-carlo", "grid", "stratified", "antithetic"] = "grid"
    """where the draws' times lie: uniform on [0, 1], where the sampler evaluates the velocity, stratified, or in
    antithetic pairs"""
    loss_form: Literal["velocity", "eps", "elbo"] = "eps"
    """prediction whose squared error is the CFM loss, the network always outputting a velocity; or elbo: the velocity's
    with the true ELBO's weight, summed over dimensions, at log-uniform t, so that the ratio is one of ELBOs in nats"""
    elbo_cutoff: float = 0.05
    """delta, the smallest t of the form elbo, 0 < delta < 1"""
    reduction: Literal["mean", "sum", "sqrt"] = "mean"
    """how the loss adds up action dimensions: mean, sum, or sum / sqrt(d)"""
    time_embedding_size: int = 8
    """features of t: cos and sin of t 2^k, even, >= 2"""
    output_scale: float = 0.25
    """factor on the network's output, > 0"""
    noise_correlation: float = 0.0
    """AR(1) coefficient of the base noise between steps, 0 <= rho < 1; the marginal stays N(0, I), and every likelihood
    here is that of an action under this marginal, not given the noise of the step before"""
    action_clip: float | None = None
    """bound on |pre-tanh action| before `action_noise` is added, > 0; none: unbounded"""
    action_noise: float = 0.0
    """standard deviation of Gaussian noise added to the pre-tanh action in training, >= 0"""

    def __post_init__(self):
        _check_choices(self, "policy.")
        sizes = self.hidden_sizes
        require(len(sizes) >= 1 and min(sizes) >= 1, "policy.hidden-sizes", sizes, "one or more sizes >= 1")
        _check_number("policy.num-steps", self.num_steps, 1)
        _check_number("policy.num-draws", self.num_draws, 1)
        require(0.0 < self.elbo_cutoff < 1.0, "policy.elbo-cutoff", self.elbo_cutoff, "more than 0 and less than 1")
        spread = self.loss_form != "elbo" or self.draws != "grid"
        require(spread, "policy.draws", self.draws, "not grid for the form elbo: use stratified")
        even = self.time_embedding_size >= 2 and self.time_embedding_size % 2 == 0
        require(even, "policy.time-embedding-size", self.time_embedding_size, "an even number >= 2")
        _check_number("policy.output-scale", self.output_scale, 0.0, open_low=True)
        rho = self.noise_correlation
        require(0.0 <= rho < 1.0, "policy.noise-correlation", rho, "at least 0 and less than 1")
        _check_number("policy.action-noise", self.action_noise, 0.0)
        _check_positive_or_none(self, "policy", "action_clip")
        paired = self.draws != "antithetic" or self.num_draws % 2 == 0
        require(paired, "policy.num-draws", self.num_draws, "an even number, since antithetic draws come in pairs")


@dataclass(frozen=True)
class CriticConfig:
    """The value network."""

    hidden_sizes: tuple[int, ...] = (256, 256, 256, 256, 256)
    """widths of the hidden layers, each >= 1"""
    activation: Literal["silu", "tanh", "relu", "gelu"] = "silu"
    """nonlinearity between layers"""

    def __post_init__(self):
        _check_choices(self, "critic.")
        sizes = self.hidden_sizes
        require(len(sizes) >= 1 and min(sizes) >= 1, "critic.hidden-sizes", sizes, "one or more sizes >= 1")


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is collected."""

    num_envs: int = 2048
    """B, environments in lock-step, >= 1"""
    num_steps: int = 480
    """T, steps of every environment per iteration, >= 1"""
    episode_length: int = 1000
    """steps after which a training episode is truncated, >= 1; evaluation always takes 1000"""
    stagger: bool = False
    """spread the environments' clocks over an episode"""

    def __post_init__(self):
        _check_number("rollout.num-envs", self.num_envs, 1)
        _check_number("rollout.num-steps", self.num_steps, 1)
        _check_number("rollout.episode-length", self.episode_length, 1)


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
    """steps of one segment that stays together where advantages are computed per minibatch; divides num_steps"""
    num_epochs: int = 16
    """passes over one rollout, >= 1"""
    advantages: Literal["minibatch", "iteration"] = "minibatch"
    """compute GAE in every minibatch with the current critic, leaving truncated steps out (Brax), or once an
    iteration, bootstrapping from the true next observation"""
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

    def __post_init__(self):
        _check_choices(self, "learning.")
        _check_number("learning.learning-rate", self.learning_rate, 0.0, open_low=True)
        _check_number("learning.minibatch-size", self.minibatch_size, 1)
        _check_number("learning.unroll-length", self.unroll_length, 1)
        _check_number("learning.num-epochs", self.num_epochs, 1)
        _check_number("learning.discount", self.discount, 0.0, 1.0)
        _check_number("learning.gae-lambda", self.gae_lambda, 0.0, 1.0)
        _check_number("learning.reward-scale", self.reward_scale, 0.0, open_low=True)
        _check_number("learning.value-coefficient", self.value_coefficient, 0.0, open_low=True)
        bounds = "advantage_clip", "policy_gradient_clip", "critic_gradient_clip"
        _check_positive_or_none(self, "learning", "final_learning_rate", *bounds)


@dataclass(frozen=True)
class EvaluationConfig:
    """Episodes of 1000 steps with random base noise, and as many with base noise 0 (for `ppo`: the mean action)."""

    num_episodes: int = 128
    """episodes of each kind after the last update, >= 1"""
    num_episodes_during: int = 128
    """episodes of each kind in the evaluations before, >= 1"""
    interval: int = 6_000_000
    """env steps between evaluations, >= 1"""

    def __post_init__(self):
        _check_number("evaluation.num-episodes", self.num_episodes, 1)
        _check_number("evaluation.num-episodes-during", self.num_episodes_during, 1)
        _check_number("evaluation.interval", self.interval, 1)


@dataclass(frozen=True)
class DriftConfig:
    """The drift meter: exact likelihood, bound and gradients on a held-out slice of the rollout."""

    interval: int = 25
    """iterations between measurements, >= 0; 0 switches the meter off"""
    num_samples: int = 512
    """transitions a measurement takes, >= 16, even; of a smaller rollout all"""

    def __post_init__(self):
        _check_number("drift.interval", self.interval, 0)
        even = self.num_samples >= 16 and self.num_samples % 2 == 0
        require(even, "drift.num-samples", self.num_samples, "an even number >= 16")


@dataclass(frozen=True)
class DistillationConfig:
    """Self-distillation phases (DiPOD, Algorithm 1); beside or instead of beta."""

    interval: int = 0
    """iterations between phases, each on a rollout that is then learned from, >= 0; 0 for none"""
    num_steps: int = 64
    """Adam steps of a phase, >= 1"""
    initial_iterations: int = 0
    """phases before training, on rollouts of the frozen initial policy (the released control code), >= 0"""
    learning_rate: float = 3e-4
    """Adam's step size in a phase, > 0"""
    minibatch_size: int = 2048
    """transitions per step on one device, >= 1"""
    actions: Literal["rollout", "redrawn"] = "rollout"
    """the actions that were taken, or new ones drawn in the same states: the policy's own given the state alone, also
    where taken ones are clipped, perturbed, or made of base noise that is correlated between steps"""
    target: Literal["fresh-noise", "pre-image"] = "fresh-noise"
    """what an action is paired with: fresh noise (the CFM loss), or the base noise that the sampler made it of, which
    keeps the spread and loosens the bound"""

    def __post_init__(self):
        _check_choices(self, "distillation.")
        _check_number("distillation.interval", self.interval, 0)
        _check_number("distillation.num-steps", self.num_steps, 1)
        _check_number("distillation.initial-iterations", self.initial_iterations, 0)
        _check_number("distillation.learning-rate", self.learning_rate, 0.0, open_low=True)
        _check_number("distillation.minibatch-size", self.minibatch_size, 1)

    @property
    def enabled(self) -> bool:
        """Whether any phase is run."""
        return self.interval > 0 or self.initial_iterations > 0


@dataclass(frozen=True)
class BetaControlConfig:
    """The controller behind `--beta auto`: it holds the measured gap near a target.

    At every measurement beta is multiplied by gap / target, at most by `rise` and at least by 1 / `release`. A gap
    answers late, and one that has opened is hard to close: beta starts high, rises fast and is let go slowly. It is
    the mean that is held, since a gap opens in its tail first, where the median does not look (docs/drift.md).
    """

    gap_target: float = 1.5
    """nats per action dimension of log-likelihood minus ELBO (mean over samples), > 0"""
    rise: float = 10.0
    """largest factor on beta at a measurement over the target, > 1"""
    release: float = 1.05
    """largest divisor of beta at a measurement under the target, > 1"""
    initial: float = 0.05
    """first value of beta, > 0"""
    minimum: float = 2e-3
    """smallest beta, > 0"""
    maximum: float = 1.0
    """largest beta, at least the smallest"""

    def __post_init__(self):
        _check_number("beta-control.gap-target", self.gap_target, 0.0, open_low=True)
        _check_number("beta-control.rise", self.rise, 1.0, open_low=True)
        _check_number("beta-control.release", self.release, 1.0, open_low=True)
        _check_number("beta-control.minimum", self.minimum, 0.0, open_low=True)
        _check_number("beta-control.maximum", self.maximum, self.minimum)
        _check_number("beta-control.initial", self.initial, self.minimum, self.maximum)


@dataclass(frozen=True)
class Config:
    """Train a policy on one of MuJoCo Playground's DM-Control tasks."""

    task: str = "BallInCup"
    """one of Playground's 25 DM-Control tasks, or module:factory of your own"""
    objective: ObjectiveName = "fpo"
    """what the update maximises: fpo (flow policy, a ratio of CFM losses), exact-ppo (flow policy, the ratio of its
    sampler's exact likelihoods; training takes several times as long) or ppo (Gaussian policy)"""
    beta: float | Literal["auto"] = 0.0
    """DiPOD's weight of the bound on the rollout's own samples: of the mean CFM loss, in the form and reduction of the
    policy's options, on whose scale its size depends; >= 0, 0 is the plain objective; auto sets it by the measured
    drift"""
    preset: Preset = "auto"
    """where the other options' defaults come from: paper (the FPO code's), cpu (learns in minutes on two cores), smoke
    (ends in a minute); auto takes paper on an accelerator, else cpu"""
    backend: Backend = "auto"
    """physics: native (MuJoCo's C engine on CPU threads), mjx (MuJoCo XLA), warp (MuJoCo Warp, CUDA); auto takes warp
    on CUDA, mjx on TPU, else native"""
    seeds: int = 1
    """number of seeds, 0 .. seeds - 1, trained in one program, >= 1"""
    seed_list: tuple[int, ...] | None = None
    """the seeds themselves, each >= 0 and used once; --seeds does not count then"""
    total_steps: int = 60_000_000
    """env steps of each seed, >= 1; rounded up to whole iterations"""
    out: Path | None = None
    """run folder; default runs/<task>/<objective>-beta<beta>/<time>"""
    resume: bool = False
    """continue the run in --out from its newest checkpoint"""
    logger: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """event log beside the files that are always written"""
    checkpoint_interval: float = 60.0
    """seconds between checkpoints, >= 0; one is always written at the end"""
    fpo: FpoConfig = field(default_factory=FpoConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    beta_control: BetaControlConfig = field(default_factory=BetaControlConfig)

    def __post_init__(self):
        _check_choices(self)
        check_task(self.task)
        if self.beta == "auto":
            measured = self.objective != "ppo" and self.drift.interval > 0
            require(
                measured, "beta", "auto", "a number, where no drift is measured (objective ppo, or drift.interval 0)"
            )
        else:
            _check_number("beta", self.beta, 0.0)
            bounded = self.objective != "ppo" or self.beta == 0
            require(
                bounded, "beta", self.beta, "0 with the objective ppo: a Gaussian's likelihood has no bound to hold"
            )
        for name in ("interval", "initial_iterations"):
            times = getattr(self.distillation, name)
            plain = self.objective != "ppo" or times == 0
            flag = f"distillation.{name.replace('_', '-')}"
            require(plain, flag, times, "0 with the objective ppo: it has no bound")
        if self.objective == "exact-ppo":
            for name in ("action_clip", "action_noise"):
                what = "unset with the objective exact-ppo: such an action has no exact likelihood under the flow"
                require(not (value := getattr(self.policy, name)), f"policy.{name.replace('_', '-')}", value, what)
        _check_number("seeds", self.seeds, 1)
        if self.seed_list is not None:
            seeds = self.seed_list
            proper = len(seeds) >= 1 and min(seeds) >= 0 and len(set(seeds)) == len(seeds) and max(seeds) < 2**31
            require(proper, "seed-list", " ".join(map(str, seeds)), "one or more different numbers, 0 <= seed < 2^31")
        _check_number("total-steps", self.total_steps, 1)
        _check_number("checkpoint-interval", self.checkpoint_interval, 0.0)
        rollout, learning = self.rollout, self.learning
        batch = rollout.num_envs * rollout.num_steps
        require(
            batch % learning.minibatch_size == 0,
            "learning.minibatch-size",
            learning.minibatch_size,
            f"a divisor of rollout.num-envs * rollout.num-steps = {batch}",
        )
        enough = self.drift.interval == 0 or batch >= 16
        what = f"0 where rollout.num-envs * rollout.num-steps = {batch} is less than 16"
        require(enough, "drift.interval", self.drift.interval, what)
        if learning.advantages == "minibatch":
            require(
                rollout.num_steps % learning.unroll_length == 0,
                "learning.unroll-length",
                learning.unroll_length,
                f"a divisor of rollout.num-steps = {rollout.num_steps}",
            )
            require(
                learning.minibatch_size % learning.unroll_length == 0,
                "learning.minibatch-size",
                learning.minibatch_size,
                f"a multiple of learning.unroll-length = {learning.unroll_length}",
            )
        require(
            self.resume is False or self.out is not None,
            "resume",
            self.resume,
            "only with --out, the folder of the run",
        )

    @property
    def initial_beta(self) -> float:
        """The number that beta starts at."""
        return self.beta_control.initial if self.beta == "auto" else float(self.beta)

    @property
    def beta_label(self) -> str:
        """Beta as it stands in names: `0.002` or `auto`."""
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


def to_json(config: Any) -> dict[str, Any]:
    """Config as plain JSON values."""
    return {
        f.name: to_json(v) if dataclasses.is_dataclass(v := getattr(config, f.name)) else _plain(v)
        for f in dataclasses.fields(config)
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def from_json(values: dict[str, Any], cls: type = Config) -> Any:
    """Inverse of `to_json`; unknown keys raise ValueError, so that a folder of another version is not half read."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"config.json holds options this version does not know: {', '.join(unknown)}")
    sections = {
        f.name: cast(type, f.default_factory) for f in known.values() if f.default_factory is not dataclasses.MISSING
    }
    parsed: dict[str, Any] = {
        name: from_json(v, sections[name]) if name in sections else tuple(v) if isinstance(v, list) else v
        for name, v in values.items()
    }
    if parsed.get("out") is not None:
        parsed["out"] = Path(parsed["out"])
    return cls(**parsed)


def differences(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Options in which two configs differ, by command-line name."""
    found: dict[str, tuple[Any, Any]] = {}
    for f in dataclasses.fields(a):
        left, right, name = getattr(a, f.name), getattr(b, f.name), prefix + f.name.replace("_", "-")
        if dataclasses.is_dataclass(left):
            found |= differences(left, right, name + ".")
        elif left != right:
            found[name] = (left, right)
    return found
