"""Every option of a training run, with its unit and legal range. The options of objectives, regularisers and policies
are defined with them, those of the run's parts in `config_groups`; this file puts them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, Union

import tyro

from dipod_jax.advantages import ADVANTAGES
from dipod_jax.checks import Checked, require
from dipod_jax.config_groups import (
    BetaControlConfig,
    DistillationConfig,
    DriftConfig,
    EvaluationConfig,
    LearningConfig,
    RolloutConfig,
)
from dipod_jax.envs.tasks import TASKS, check_task, folder_name
from dipod_jax.objectives import OBJECTIVES, Objective
from dipod_jax.policies import POLICIES, PolicyOptions
from dipod_jax.policies.critic import CriticOptions
from dipod_jax.regularisers import REGULARISERS, Regulariser

__all__ = [
    "TASKS",
    "BetaControlConfig",
    "Config",
    "DistillationConfig",
    "DriftConfig",
    "EvaluationConfig",
    "LearningConfig",
    "RolloutConfig",
]

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


def label_of(beta: float | str) -> str:
    """A beta as used in names: `0.002` or `auto`."""
    return beta if isinstance(beta, str) else f"{beta:g}"


def stored_fields(options: Any) -> list[str]:
    """Names of the fields of a dataclass of options that `config.json` holds."""
    return [f.name for f in dataclasses.fields(options) if f.metadata.get("stored", True)]


def earlier_values(options: Any) -> dict[str, Any]:
    """Options that came later, each with the value in its metadata's "earlier", by which runs went before it.
    `config.json` holds it only where it differs, so that folders from before are read as what they are and the runs
    of their sweeps keep their ids."""
    return {f.name: f.metadata["earlier"] for f in dataclasses.fields(options) if "earlier" in f.metadata}


@dataclass(frozen=True)
class Config:
    """Train a policy on one of MuJoCo Playground's DM-Control tasks."""

    room: ClassVar[str] = "control"
    """which kind of run it is"""

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
    """with --resume: stop if the newest checkpoint is damaged, instead of falling back to an older one, or if records
    are missing, instead of continuing without them"""
    distributed: bool = field(default=False, metadata=UNSTORED)
    """run as one of several processes of a single run, all started with the same options (docs/scaling.md)"""
    coordinator: str | None = field(default=None, metadata=UNSTORED)
    """with --distributed: HOST:PORT of process 0; none: as Slurm, Open MPI, Kubernetes or the TPU pod says"""
    num_processes: int | None = field(default=None, metadata=UNSTORED)
    """with --coordinator: number of processes, >= 1"""
    process_id: int | None = field(default=None, metadata=UNSTORED)
    """with --coordinator: number of this process, 0 <= id < num-processes; only process 0 uses the run folder"""
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
        objective.check_policy(policy)
        for regulariser in vars(self.regularisers).values():
            has_no = "velocity field" if regulariser.needs == "field" else regulariser.needs
            what = f"0 with the objective {objective.name}: its {policy.name} policy has no {has_no}"
            possible = regulariser.weight == 0 or policy.offers(regulariser.needs)
            require(possible, f"regularisers.{regulariser.name}.weight", regulariser.weight, what)
            if regulariser.weight != 0:
                regulariser.check_policy(policy)

    def _check_beta(self) -> None:
        """Check that beta and distillation have a bound, which the objective does not loosen, and an automatic beta a
        measured gap."""
        no_bound = f"with the objective {self.objective.name}: its likelihood is exact, there is no bound to hold"
        if self.beta == "auto":
            measured = self.policy.has_field and self.drift.interval > 0
            require(self.policy.has_bound, "beta", "auto", f"0 {no_bound}")
            require(measured, "beta", "auto", "a number where no drift is measured (drift.interval 0)")
        else:
            Checked(self).number("beta")
            require(self.policy.has_bound or self.beta == 0, "beta", self.beta, f"0 {no_bound}")
        if self.beta != 0:
            self.objective.check_beta(self.beta)
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
        return Path("runs") / folder_name(self.task) / f"{self.objective.name}-beta{self.beta_label}"

    @property
    def initial_beta(self) -> float:
        """The number that beta starts at."""
        return self.beta_control.initial if self.beta == "auto" else float(self.beta)

    @property
    def method(self) -> str:
        """The name that `--objective` takes."""
        return self.objective.name

    @property
    def on_accelerator(self) -> bool:
        """Whether the physics run on an accelerator, and with them everything."""
        return self.backend != "native"

    @property
    def beta_label(self) -> str:
        """Beta as used in names: `0.002` or `auto`."""
        return label_of(self.beta)

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


# Options that may change when a run is resumed: how far it goes, what it keeps and what it prints (and what is no part
# of a run, `UNSTORED`).
RESUMABLE = ("total-steps", "logger", "checkpoint-interval", "keep-checkpoints", "strict-resume", "resume", "out")


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
    """Refuse to resume a run with other options than it has stored, except those in `changeable`, by command-line name.

    Raises:
        ValueError: one line.
    """
    for name, (was, now) in differences(stored, given).items():
        if name not in changeable:
            where = f"the run in {given.out} was started with {was}; keep that, or name another --out"
            raise ValueError(f"--{name} {now} is not allowed with --resume: {where}")
