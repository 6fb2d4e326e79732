"""Run folders as one table of seeds: what was trained, its curves, what it returned in the end."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dipod_jax.report._page import flatten, setting
from dipod_jax.report.run import objective_of
from dipod_jax.runs import RunFolder, RunFolderError
from dipod_jax.runs.places import CONFIG
from dipod_jax.serialisation import earlier_options
from dipod_jax.studies.statistics import area_under_curve
from dipod_jax.studies.sweep.plan import UNITS
from dipod_jax.viz._series import Curve, curves_by_seed

# Column of curves.parquet -> the records' kind and key.
QUANTITIES = {
    "return": ("evaluation", "return_mean"),
    "zero_noise_return": ("evaluation", "zero_noise_return_mean"),
    "gap": ("drift", "drift/gap"),
    "cosine": ("drift", "drift/gradient_cosine"),
    "cosine_ceiling": ("drift", "drift/gradient_cosine_ceiling"),
}
# What two seeds of one arm may differ in: who they are, where they lie, what is kept of them.
_OF_A_RUN = (
    "version",
    "task",
    "beta",
    "seeds",
    "seed_list",
    "first_seed",
    "out",
    "resume",
    "logger",
    "checkpoint_interval",
)
_OF_A_RUN += ("keep_checkpoints", "strict_resume", "objective", "objective.name", "method", "cache")
LANGUAGE_NOTE = "Of a language model an env step is an answer, a return its reward, zero noise the greedy accuracy."
_ABSENT, _OFF = "not set", "off"
USUAL = 0.75  # of the runs have an option's usual value, which labels leave out


class Arm(NamedTuple):
    """What is compared: seeds of one arm differ in nothing but their seed and their task."""

    objective: str
    beta: str
    """`0.002` or `auto`"""
    options: str
    """options in which it differs from other runs of its task and objective but for usual values, as `name value, name
    value`"""

    @property
    def label(self) -> str:
        """The arm in a few words, without the objective where it is `fpo`'s default form: `beta 0.002`."""
        return f"beta {self.beta}" + (f", {self.options}" if self.options else "")

    @property
    def control(self) -> "Arm":
        """The same with beta 0."""
        return self._replace(beta="0")

    @property
    def order(self) -> tuple[str, str, float, str]:
        """By objective, options, beta; `auto` last."""
        try:
            return self.objective, self.options, float(self.beta), ""
        except ValueError:
            return self.objective, self.options, float("inf"), self.beta


@dataclass(frozen=True)
class SeedRun:
    """One seed of one run."""

    task: str
    arm: Arm
    seed: int
    folder: RunFolder
    finished: bool
    """whether its run has written a result"""
    curves: Mapping[str, Curve]
    """name in `QUANTITIES` -> curve over env steps; those that were measured"""
    final_return: float | None
    """mean return of its last evaluation, from `result.json`; None where the run is not finished, or it diverged"""
    zero_noise_return: float | None
    """the same with base noise 0; of a language model the accuracy of its greedy answers"""
    env_steps: int
    seconds: float
    """wall-clock seconds so far of its run, which seeds of one run share"""

    @property
    def identity(self) -> tuple[str, Arm, int]:
        """What no two seeds of a study share."""
        return self.task, self.arm, self.seed

    @property
    def auc(self) -> float | None:
        """Mean return along training (`area_under_curve`)."""
        curve = self.curves.get("return")
        return None if curve is None else area_under_curve(*curve)

    @property
    def last_over_best(self) -> float | None:
        """The final return over the highest that an evaluation of the run had, itself included; None where there is no
        final return, or none of them is above 0."""
        if self.final_return is None:
            return None
        best = max(self.final_return, float(self.curves["return"].y.max()))
        return self.final_return / best if best > 0 else None

    def late(self, quantity: str) -> float | None:
        """Median of a quantity over the last quarter of the env steps at which it was measured; None where never."""
        curve = self.curves.get(quantity)
        if curve is None:
            return None
        return float(np.median(curve.y[curve.x >= 0.75 * curve.x[-1]]))


class Study(NamedTuple):
    """What a list of run folders holds."""

    folders: list[RunFolder]
    seeds: list[SeedRun]
    """those with an evaluation, by task, arm and seed"""
    left_out: dict[str, str]
    """a unit, or a seed of one -> why it is left out"""

    @property
    def tasks(self) -> list[str]:
        """In the order of the alphabet."""
        return sorted({seed.task for seed in self.seeds})

    @property
    def arms(self) -> list[Arm]:
        """By objective, options and beta."""
        return sorted({seed.arm for seed in self.seeds}, key=lambda arm: arm.order)

    @property
    def of_language(self) -> bool:
        """Whether it holds runs of a language model."""
        return any(folder.room == "language" for folder in self.folders)

    def of(self, task: str, arm: Arm) -> list[SeedRun]:
        """The seeds of one arm on one task."""
        return [seed for seed in self.seeds if seed.task == task and seed.arm == arm]


def is_study(path: Path) -> bool:
    """Whether `path` is a study's folder, of which every unit is a run folder in `units/`."""
    try:
        return (path / UNITS).is_dir()
    except OSError:  # a name too long for any folder, which whoever opens it says
        return False


def collect_study(path: Path) -> Study:
    """The units of a study, whatever they hold so far.

    A unit that has not begun is not in it. One that cannot be read is named in `left_out`; so is a seed that another
    unit has too, as after a sweep was extended to more seeds: the finished one is kept, or the one that has gone
    further.

    Raises:
        RunFolderError: no unit can be read, or none has an evaluation yet.
    """
    units = sorted(unit for unit in (path / UNITS).iterdir() if (unit / CONFIG).exists())
    runs: list[_Run] = []
    left_out = {}
    for unit in units:
        try:
            runs.append(_read(RunFolder.open(unit)))
        except RunFolderError as error:
            left_out[unit.name] = str(error)
    if not runs:
        raise RunFolderError(f"{path / UNITS} holds no run that can be read yet")
    seeds = sorted(_all_seeds(runs, str(path)), key=lambda seed: (seed.finished, seed.env_steps), reverse=True)
    kept: dict[tuple[str, Arm, int], SeedRun] = {}
    for seed in seeds:
        same = kept.setdefault(seed.identity, seed)
        if same is not seed:
            left_out[f"{seed.folder.path.name}, seed {seed.seed}"] = f"{same.folder.path.name} has the same seed"
    return Study([run.folder for run in runs], _in_order(kept.values()), left_out)


def collect(folders: Sequence[RunFolder]) -> Study:
    """These runs, finished or not.

    Raises:
        RunFolderError: no run has an evaluation yet; one cannot be read; or two hold the same seed of one arm.
    """
    seeds = _all_seeds([_read(folder) for folder in folders], ", ".join(str(folder.path) for folder in folders[:3]))
    known: dict[tuple[str, Arm, int], SeedRun] = {}
    for seed in seeds:
        same = known.setdefault(seed.identity, seed)
        if same is not seed:
            what = f"seed {seed.seed} of {seed.task}, {seed.arm.objective}, {seed.arm.label}"
            raise RunFolderError(f"{what} is in {same.folder.path} and in {seed.folder.path}; leave one out")
    return Study(list(folders), _in_order(seeds), {})


class _Run(NamedTuple):
    """A run folder and what was read in it."""

    folder: RunFolder
    result: Mapping[str, Any] | None
    records: Sequence[dict[str, Any]]


def _read(folder: RunFolder) -> _Run:
    return _Run(folder, folder.read_result(), folder.read_metrics())


def _all_seeds(runs: Sequence[_Run], where: str) -> list[SeedRun]:
    arms = _arms([run.folder.config for run in runs])
    seeds = [seed for run, arm in zip(runs, arms, strict=True) for seed in _seeds(run, arm)]
    if not seeds:
        raise RunFolderError(f"{where} has no evaluation yet; a run makes its first before it trains")
    return seeds


def _in_order(seeds: Iterable[SeedRun]) -> list[SeedRun]:
    return sorted(seeds, key=lambda seed: (seed.task, seed.arm.order, seed.seed))


def _seeds(run: _Run, arm: Arm) -> list[SeedRun]:
    """Every seed of a run that has an evaluation."""
    folder, result, records = run
    curves = {
        name: curves_by_seed([r for r in records if r["kind"] == kind], "env_steps", key)
        for name, (kind, key) in QUANTITIES.items()
    }
    last = {record["seed"]: record for record in records}
    return [
        SeedRun(
            task=str(folder.config.get("task")),
            arm=arm,
            seed=seed,
            folder=folder,
            finished=result is not None,
            curves={name: of_seed[seed] for name, of_seed in curves.items() if seed in of_seed},
            final_return=_of_seed(result, "final_return", seed),
            zero_noise_return=_of_seed(result, "final_return_zero_noise", seed),
            env_steps=last[seed]["env_steps"],
            seconds=_seconds(result, last[seed]),
        )
        for seed in curves["return"]
    ]


def _of_seed(result: Mapping[str, Any] | None, key: str, seed: int) -> float | None:
    """What `result.json` has of one seed; None where it has nothing, or null for a return that is no number, and of a
    seed that has diverged, whose return there is that of the policy it was left with. A language model acts without
    noise where it is greedy."""
    found = result or {}
    if seed in found.get("diverged_seeds", ()):
        return None
    greedy = (found.get("final") or {}).get("greedy") if key == "final_return_zero_noise" else None
    per_seed = (found.get(key) or greedy or {}).get("per_seed") or []
    return dict(zip(found.get("seeds", []), per_seed, strict=False)).get(seed)


def _seconds(result: Mapping[str, Any] | None, last: Mapping[str, Any]) -> float:
    of_result = (result or {}).get("wall_clock_s")
    return float(last["wall_clock_s"] if of_result is None else of_result)


def _arms(configs: Sequence[Mapping[str, Any]]) -> list[Arm]:
    """The arm of each run: its options are those that vary among the runs of its task and objective and are not usual,
    or, where the presets vary, the preset and those of the runs of that preset."""
    heads = [(str(config.get("task")), str(objective_of(config)[0])) for config in configs]
    presets = [setting(config.get("preset")) for config in configs]
    options = [_options(config) for config in configs]
    shown = []
    for index in range(len(configs)):
        same = [i for i, head in enumerate(heads) if head == heads[index]]
        one_preset = len({presets[i] for i in same}) == 1
        first = {} if one_preset else {"preset": presets[index]}
        shown.append(first | _varying(options, index, [i for i in same if presets[i] == presets[index]]))
    usual = {
        objective: _usual([(task, of) for (task, its), of in zip(heads, shown, strict=True) if its == objective])
        for objective in {objective for _, objective in heads}
    }
    arms = []
    for (_, objective), config, mine in zip(heads, configs, shown, strict=True):
        text = ", ".join(f"{name} {value}" for name, value in mine.items() if usual[objective].get(name) != value)
        arms.append(Arm(objective, setting(config.get("beta", 0)), text))
    return arms


def _usual(shown: Sequence[tuple[str, Mapping[str, str]]]) -> dict[str, str]:
    """The options that a recipe and its variations by one option each have mostly alike: those of which the same value
    is that of three quarters of the runs of every task where it varies.

    Args:
        shown: task and varying options of every run of an objective.
    """
    in_tasks: dict[str, list[str | None]] = {}
    for name, task in {(name, task) for task, of in shown for name in of}:
        values = [of.get(name) for at, of in shown if at == task]
        value, count = Counter(values).most_common(1)[0]
        in_tasks.setdefault(name, []).append(value if count >= USUAL * len(values) else None)
    return {name: found[0] for name, found in in_tasks.items() if found[0] is not None and len(set(found)) == 1}


def _options(config: Mapping[str, Any]) -> dict[str, str]:
    """Every option by its name on the command line."""
    flat = earlier_options(config) | flatten(dict(config))
    left_out = (*_OF_A_RUN, "preset")
    return {
        name.replace("_", "-"): setting(value) for name, value in flat.items() if name not in left_out and value != {}
    }


def _varying(options: Sequence[Mapping[str, str]], index: int, same: Sequence[int]) -> dict[str, str]:
    """The options of run `index` in which the runs `same` are not all alike.

    An option that a folder lacks, as one of another version may, tells nothing; but a regulariser that it lacks is off.
    """
    names = dict.fromkeys(name for i in same for name in options[i])
    lacking = {name: _OFF if name.startswith("regularisers.") else _ABSENT for name in names}
    values = {name: {options[i].get(name, lacking[name]) for i in same} - {_ABSENT} for name in names}
    return {name: options[index].get(name, lacking[name]) for name, found in values.items() if len(found) > 1}
