"""All options of a post-training run on a language task."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, Union

import tyro

from dipod_jax.bounds.any_order import LARGEST_LENGTH
from dipod_jax.checks import Checked, check_choice, require
from dipod_jax.config import UNSTORED, BetaControlConfig, label_of, stored_fields
from dipod_jax.language import TASKS
from dipod_jax.language.methods import METHODS, choose
from dipod_jax.language.model import MaskedTransformer
from dipod_jax.language.pretrain import PretrainOptions
from dipod_jax.language.task import Task
from dipod_jax.objectives import OBJECTIVES, Objective
from dipod_jax.options import override
from dipod_jax.policies.masked import MaskedOptions, MaskedPolicy
from dipod_jax.serialisation import MOST_SEEDS, read_options

if TYPE_CHECKING:
    AnyObjective: TypeAlias = Objective
    AnyTask: TypeAlias = Task
else:  # what the command line chooses from; --objective and --task say which one before its options are read
    AnyObjective = tyro.conf.AvoidSubcommands[Union[tuple(OBJECTIVES.values())]]  # noqa: UP007
    AnyTask = tyro.conf.AvoidSubcommands[Union[tuple(TASKS.values())]]  # noqa: UP007


@dataclass(frozen=True)
class NetworkOptions:
    """The transformer (`dipod_jax.language.model`)."""

    width: int = 64
    """width of the residual stream, >= 1 and divisible by `num_heads`"""
    num_layers: int = 2
    """number of blocks, >= 1"""
    num_heads: int = 2
    """number of attention heads, >= 1"""
    head: Literal["zeros", "random"] = "zeros"
    """initial weights of the layer that makes the logits. From zeros, pretraining makes a policy that is less sure of
    itself than from random ones where both solve as many problems"""

    def validate(self) -> None:
        """Refuse options out of range, with one line."""
        check = Checked(self, "network")
        check.choices()
        check.number("width", "num_layers", "num_heads", low=1)
        check.require(self.width % self.num_heads == 0, "width", "a multiple of --network.num-heads")


@dataclass(frozen=True)
class LearningOptions:
    """How an iteration learns from its samples."""

    num_iterations: int = 90
    """rounds of sampling and learning, >= 1"""
    num_prompts: int = 16
    """number of prompts in an iteration, >= 1"""
    samples_per_prompt: int = 8
    """number of answers to each prompt, which form a group, >= 2"""
    inner_updates: int = 4
    """mu, gradient steps on the samples of an iteration, >= 1"""
    learning_rate: float = 3e-4
    """step size of Adam (.9, .99), > 0"""
    gradient_clip: float = 0.2
    """bound on the gradient's norm, > 0"""
    fresh_masks: bool = False
    """draw new masks for each inner update, the same for old and new scores; otherwise once per iteration"""
    advantages: Literal["group", "positive", "none"] = "group"
    """reward minus the mean of its group; positive sets negative advantages to 0; none leaves only beta's term"""
    advantage_shift: float = 0.0
    """added to every advantage: the same as beta, but inside the ratio and its clip"""
    distillation_interval: int = 0
    """iterations between two phases of self-distillation on the policy's own samples (DiPOD, Algorithm 1), >= 0; 0:
    none"""
    distillation_steps: int = 8
    """gradient steps of a phase, with fresh masks and a separate Adam, >= 1"""

    def validate(self) -> None:
        """Refuse options out of range, with one line."""
        check = Checked(self, "learning")
        check.choices()
        check.number("num_iterations", "num_prompts", "inner_updates", "distillation_steps", low=1)
        check.number("samples_per_prompt", low=2)
        check.positive("learning_rate", "gradient_clip")
        check.number("advantage_shift", low=-1e9)
        check.number("distillation_interval")


@dataclass(frozen=True)
class MeasureOptions:
    """When, and on how many samples, the drift is measured and the policy evaluated."""

    drift_interval: int = 10
    """iterations between measurements of the exact drift, >= 0; 0: none, and none with more than 10 blanks"""
    drift_prompts: int = 2
    """number of prompts of a measurement, each with a group of samples, >= 1"""
    evaluation_interval: int = 10
    """iterations between evaluations, >= 1; start and end are always evaluated"""
    num_problems: int = 512
    """held-out problems of an evaluation, >= 1; at most all of them"""

    def validate(self) -> None:
        """Refuse options out of range, with one line."""
        check = Checked(self, "measure")
        check.number("drift_interval")
        check.number("drift_prompts", "evaluation_interval", "num_problems", low=1)


@dataclass(frozen=True)
class LanguageConfig:
    """Post-train a masked diffusion on a verifiable task; the model is pretrained once and cached."""

    room: ClassVar[str] = "language"
    """which kind of run it is, as `config.json` names it"""

    objective: AnyObjective
    """what the update maximises; chosen by --objective NAME"""
    problems: AnyTask
    """the task's problems; chosen by --task NAME"""
    policy: MaskedOptions
    """How the policy acts, and how its scores are computed."""
    pretraining: PretrainOptions
    """Pretraining of the model that post-training starts from."""
    learning: LearningOptions
    """How an iteration learns from its samples."""
    task: Annotated[str, tyro.conf.Suppress] = "sudoku"
    """sudoku or countdown"""
    method: Annotated[str, tyro.conf.Suppress] = "fpo"
    """name of the objective with its defaults on tokens (`dipod_jax.language.methods`)"""
    beta: float | Literal["auto"] = 0.0
    """DiPOD's weight of the negative ELBO of the policy's own samples, >= 0; the ELBO is divided by the length if the
    scores are. auto adjusts the weight to the measured gap"""
    seeds: int = 1
    """number of seeds, >= 1; they share the pretrained model"""
    first_seed: int = 0
    """the first of the seeds, >= 0; the others follow it"""
    out: Path | None = None
    """run folder; default runs/<task>/<objective>-beta<beta>/<time>"""
    resume: bool = field(default=False, metadata=UNSTORED)
    """continue the run in --out where it was stopped or killed, with the options that its folder holds"""
    checkpoint_interval: float = 60.0
    """seconds between checkpoints, >= 0; the end of a run is always saved"""
    pretrained: Path | None = None
    """folder of a pretrained checkpoint to start from; none: pretrain, or use the cache"""
    cache: Path = Path("runs/pretrained")
    """folder in which pretrained models are cached"""
    test_file: Path | None = None
    """a published test set, in its original format, for a final evaluation"""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    measure: MeasureOptions = field(default_factory=MeasureOptions)
    beta_control: BetaControlConfig = field(
        # Slower up and faster down than in control, and bounded: an advantage is .05 to .25 in size, and a beta above
        # it distils the policy into what it already does, until the gap is 0 and so is the reward.
        default_factory=lambda: BetaControlConfig(
            gap_target=0.15, initial=0.05, minimum=1e-3, maximum=0.1, rise=1.5, release=1.5
        )
    )
    """The controller behind `--beta auto`: at every measurement beta is multiplied by gap / (target x blanks), within
    its bounds."""

    def __post_init__(self):
        check = Checked(self)
        check_choice("task", self.task, TASKS)
        check.choices()
        for part in (self.objective, self.policy, self.pretraining, self.learning, self.network, self.measure):
            part.validate()
        check.number("seeds", low=1)
        check.number("first_seed", high=2**31 - 1)
        check.number("checkpoint_interval")
        require(not self.resume or self.out is not None, "resume", True, "with --out, the folder of the run")
        if self.beta != "auto":
            check.number("beta")
        if self.beta != 0:
            self.objective.check_beta(self.beta)
        exact = self.measures_drift or self.beta != "auto"
        require(
            exact,
            "beta",
            "auto",
            f"a number, or with --measure.drift-interval > 0 and {LARGEST_LENGTH - 2} blanks at most",
        )

    @property
    def on_accelerator(self) -> bool:
        """Whether JAX would find an accelerator on this machine."""
        from dipod_jax.presets import accelerator

        return accelerator() is not None

    @property
    def beta_label(self) -> str:
        """Beta as used in names: `0.05` or `auto`."""
        return label_of(self.beta)

    @property
    def steps_per_iteration(self) -> int:
        """Number of answers that a seed learns from in an iteration."""
        return self.learning.num_prompts * self.learning.samples_per_prompt

    @property
    def planned_steps(self) -> int:
        """Number of answers that a seed has learned from when training ends."""
        return self.learning.num_iterations * self.steps_per_iteration

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the run."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    @property
    def measures_drift(self) -> bool:
        """Whether the exact drift is measured."""
        return self.measure.drift_interval > 0 and self.problems.num_blanks <= LARGEST_LENGTH - 2

    @property
    def needs_reference(self) -> bool:
        """Whether the objective needs the pretrained policy as a reference."""
        return bool(self.objective.needs_reference)

    def build_network(self) -> MaskedTransformer:
        """The transformer for the task's length and words."""
        return MaskedTransformer(self.problems.length, self.problems.vocab_size, **dataclasses.asdict(self.network))

    def build_policy(self) -> MaskedPolicy:
        """The policy over that transformer."""
        return MaskedPolicy(self.policy, self.build_network(), self.problems.length, self.problems.num_blanks)


def make_config(task: str = "sudoku", objective: str = "fpo", **values: Any) -> LanguageConfig:
    """The library's defaults under those of the method, of the task, of both together (`Task`), and `values`.

    Raises:
        ValueError: one line: unknown task or method, or an option out of range.
    """
    check_choice("task", task, TASKS)
    method, options, policy = choose(objective)
    problems = TASKS[task]()
    config = LanguageConfig(
        objective=options,
        problems=problems,
        policy=policy,
        pretraining=PretrainOptions(),
        learning=LearningOptions(learning_rate=method.learning_rate, fresh_masks=method.fresh_masks),
        task=task,
        method=objective,
    )
    of_both = problems.method_defaults.get(method.objective, {})
    return dataclasses.replace(override(config, {**problems.defaults, **of_both}), **values)


def built_in_beta(config: LanguageConfig) -> float:
    """What the method's own code adds to beta."""
    return METHODS[config.method].built_in_beta


def to_json(config: LanguageConfig) -> dict[str, Any]:
    """The config as plain values; `objective` with its name, as in any other run folder."""
    from dipod_jax.runs._disk import plain

    values = plain({name: getattr(config, name) for name in stored_fields(config)})
    return values | {"room": config.room, "objective": {"name": config.objective.name, **values["objective"]}}


def from_json(values: dict[str, Any]) -> LanguageConfig:
    """Inverse of `to_json`.

    Raises:
        ValueError: one line: the folder holds another kind of run, or another version.
    """
    try:
        template = make_config(values["task"], values["method"])
        problems = {"name": template.problems.name, **values["problems"]}  # whose kind the task says
        network = {"head": "zeros", **values["network"]}  # older folders do not name it, nor an interval
    except (KeyError, TypeError) as error:
        raise ValueError(f"config.json is not of a language run of this version ({error})") from None
    stored = {name: value for name, value in ({"checkpoint_interval": 60.0} | values).items() if name != "room"}
    config = read_options(template, stored | {"problems": problems, "network": network})
    require(config.seeds <= MOST_SEEDS, "seeds", config.seeds, f"at most {MOST_SEEDS} in a folder")
    return config
