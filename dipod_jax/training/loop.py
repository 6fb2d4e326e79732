"""The training loop: the only place that touches the disk, the clock and the terminal."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import jax
import numpy as np

from dipod_jax import envs
from dipod_jax.config import Config
from dipod_jax.envs.tasks import is_own_task
from dipod_jax.runs import BEST, NumbersError, Progress, RunFolder, RunFolderError, Saver, StorageError, make_logger
from dipod_jax.runs.loggers import Logger, NullLogger
from dipod_jax.runs.mujoco_log import MujocoLog
from dipod_jax.runs.signals import StopRequest, stop_requested
from dipod_jax.runs.silent import SilentFolder
from dipod_jax.runs.watch import Watch
from dipod_jax.serialisation import to_json
from dipod_jax.training.artifacts import write_artifacts
from dipod_jax.training.best import BestKeeper
from dipod_jax.training.hosts import is_first, largest, to_host
from dipod_jax.training.numbers import find_causes, stopped_by
from dipod_jax.training.programs import Programs, make_programs
from dipod_jax.training.results import best_and_last, evaluation_record, seconds_to, start_note, summarise
from dipod_jax.training.resuming import Resumed, evaluation_is_due, fresh_state, resume
from dipod_jax.training.state import INITIAL_DISTILLATION, TrainState


def train(
    config: Config,
    *,
    started: float | None = None,
    programs: Programs | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train as `config` says, and leave everything in its run folder.

    Args:
        config: resolved; preset and backend are not "auto", `out` is set.
        started: `time.perf_counter()` at which the clock of the run began; now where None.
        programs: compiled ones to use again, made for a config that differs in `Tunables` and folders only.
        watch: over the other processes of the run, where there are any.

    Returns:
        What `result.json` holds; nothing where another process has it.

    Raises:
        RunFolderError, CheckpointError: the folder cannot be used.
        TaskError: a task of the user's own that cannot be run; nothing is written.
        StorageError: what the run must leave behind cannot be written any more.
        NumbersError: every seed's last updates were skipped, as their gradients were not finite; or those of some, and
            the others' training is finished.
        Stopped: on SIGINT, SIGTERM or SIGHUP, after the running iteration was saved. Where one comes in a compilation,
            an evaluation or the drawing of pictures, the process ends instead, as saved; a second one ends it at once.
    """
    started = time.perf_counter() if started is None else started
    if programs is None and is_own_task(config.task):
        envs.make(config.task, config.backend)
    with stop_requested() as stop, contextlib.closing(Run(config, started, programs, stop=stop)) as run:
        if watch is not None:
            watch.take(stop)
        run.start()
        while run.iteration < config.num_iterations:
            run.iterate()
            if run.is_stopping() and run.iteration < config.num_iterations:
                run.leave_saved()
                raise stop.stopped()
        result = run.finish()
        run.check_seeds()
        return result


class Run:
    """One run's folder, clock and state."""

    def __init__(
        self,
        config: Config,
        started: float,
        programs: Programs | None = None,
        *,
        stop: StopRequest | None = None,
    ):
        assert config.out is not None
        self.config, self.seeds, self.stop = config, config.all_seeds, stop or StopRequest()
        self._started = self._clock_zero = started
        self._given = programs
        self.folder = _open_folder(config)
        self.progress = Progress(config.planned_steps * len(self.seeds), name=config.task, silent=not is_first())
        self.folder.say = self.progress.line
        if self.folder.taken_over_from is not None:
            self.progress.line(f"continuing for {self.folder.taken_over_from}")
        self.logger: Logger = NullLogger()
        self.timings = {"setup_s": 0.0, "compile_s": 0.0, "training_s": 0.0, "evaluation_s": 0.0}
        self.evaluations: list[dict[str, Any]] = []
        self.iteration, self._timed_iterations = 0, 0
        self._last_return: float | None = None
        self.holes: str | None = None
        self._diverged: dict[int, str] = {}  # seed -> why
        self._mujoco_log = MujocoLog(self.folder.path if is_first() else None, self.progress.line)
        self._kept: TrainState | None = None  # on the host, where an evaluation may be abandoned
        self._best = BestKeeper(self.folder.checkpoints / BEST, self.progress.line)
        self._saver = Saver(self.folder.checkpoints, keep=config.keep_checkpoints, say=self.progress.line)

    @property
    def wall_clock_s(self) -> float:
        """Seconds since the command started, those of earlier parts of a resumed run included."""
        return time.perf_counter() - self._clock_zero

    @property
    def env_steps(self) -> int:
        """Env steps of each seed."""
        return self.iteration * self.config.steps_per_iteration

    def start(self) -> None:
        """Build or restore the state; compile; distil and evaluate before the first update."""
        self.progress.line(f"run folder: {self.folder.path}")
        with self.stop.abandonable(self.leave_unchanged):
            self.programs = self._given or make_programs(self.config, self.seeds)
            if self.config.resume:
                self._take_up(resume(self.config, self.folder, self.programs, self.progress.line))
            else:
                self.state = fresh_state(self.config, self.programs)
            self.logger = make_logger(
                self.config.logger if is_first() else "none",
                self.folder.path,
                to_json(self.config),
                name=self.folder.path.name,
                seeds=self.seeds,
                resumed_at=self._resumed_at(),
                say=self.progress.line,
            )
            jax.block_until_ready(self.state)
            self.timings["setup_s"] = time.perf_counter() - self._started
            before = time.perf_counter()
            if self._given is None:
                self.progress.line("compiling ...")
            self.programs = self.programs.compile()
            self.timings["compile_s"] = time.perf_counter() - before
        if self.iteration == 0:
            self._distil_initially()
        if self._is_due() and not self._is_evaluated():  # new, or stopped while it was made
            self.evaluate(self.config.evaluation.num_episodes_during)

    def _resumed_at(self) -> int | None:
        """Env steps whose records stay in the logger: of a run that begins again, none."""
        if not self.config.resume:
            return None
        return self.env_steps if self.iteration > 0 else -1

    def _is_due(self) -> bool:
        """Whether an evaluation in the course of training belongs here; the last iteration's is a larger one."""
        return self.iteration < self.config.num_iterations and evaluation_is_due(self.config, self.iteration)

    def _is_evaluated(self) -> bool:
        return any(e["iteration"] == self.iteration for e in self.evaluations)

    def _take_up(self, resumed: Resumed) -> None:
        """Go on from a state, with the clocks where they stopped."""
        state, records, self.holes = resumed
        assert state is not None
        self.state, self.iteration = state, int(to_host(state.learner.iteration)[0])
        if self.iteration > 0:
            self._best.take_up(self.state)
        self.evaluations = [r for r in records if r["kind"] == "evaluation"]
        for r in records:
            if r.get("diverged"):
                self._diverged.setdefault(r["seed"], f"seed {r['seed']} diverged in iteration {r['iteration']}")
        self._clock_zero -= max((r["wall_clock_s"] for r in records), default=0.0)
        of_one_seed = [r for r in records if r["seed"] == self.seeds[0]]
        for kind in ("training", "evaluation"):
            self.timings[f"{kind}_s"] += sum(r.get(f"{kind}_s", 0.0) for r in of_one_seed)
        self._timed_iterations = sum("training_s" in r for r in of_one_seed)

    def is_stopping(self) -> bool:
        """Whether any process of the run was asked to stop; all of them find the same."""
        if (number := largest(self.stop.number)) != 0:
            self.stop.hear(number)
        return number != 0

    def iterate(self) -> None:
        """One iteration of every seed, then whatever is due after it."""
        self.folder.check()
        before = time.perf_counter()
        drift, metrics = self._advance()
        elapsed = time.perf_counter() - before
        self._mujoco_log.check()
        self.timings["training_s"] += elapsed
        self.iteration += 1
        self._timed_iterations += 1
        for index, seed in enumerate(self.seeds):
            self._record("train", seed, _scalars(metrics, index) | {"training_s": elapsed})
            if drift:
                self._record("drift", seed, _scalars(drift, index))
        if len(self._diverged) == len(self.seeds):
            self._best.save()
            raise stopped_by("; ".join(self._diverged.values()), self.folder.checkpoints)
        total = len(self.seeds) * self.env_steps
        self.progress.update(total, len(self.seeds) * self.config.steps_per_iteration / elapsed, self._last_return)
        last = self.iteration == self.config.num_iterations
        if last:
            self.evaluate(self.config.evaluation.num_episodes)
        elif self._is_due():
            self.evaluate(self.config.evaluation.num_episodes_during)
        if last or largest(is_first() and self._saver.is_due(self.config.checkpoint_interval)):
            self.save(required=last)

    def _advance(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Act, measure, control and distil what is due, learn; returns drift metrics, if any, and training metrics."""
        programs, config = self.programs, self.config
        learner, actor = self.state
        actor, transitions = programs.act(learner, actor)
        drift = {}
        if programs.measure is not None and self.iteration % config.drift.interval == 0:
            drift = to_host(programs.measure(learner, transitions))
            if config.beta == "auto":
                learner = programs.control_beta(learner, drift["drift/gap"])
        interval = config.distillation.interval
        if programs.distil is not None and interval > 0 and (self.iteration + 1) % interval == 0:
            learner = programs.distil(learner, transitions)  # before it learns: these actions are still its own
        beta = to_host(learner.tunables.beta)
        learner, metrics = programs.learn(learner, transitions)
        self.state = TrainState(learner, actor)
        metrics = to_host(metrics)
        self._note_diverged(find_causes(self.seeds, metrics, transitions))
        diverged = np.array([float(seed in self._diverged) for seed in self.seeds])
        failures = to_host(actor.env.num_failures).sum(1)
        own = {"beta": beta, "failed_simulations": failures, "diverged": diverged}
        return drift, metrics | own

    def _note_diverged(self, causes: dict[int, str]) -> None:
        """Say once of a seed that it has diverged, where others go on; its learner stays as it is from now on."""
        new = {seed: cause for seed, cause in causes.items() if seed not in self._diverged}
        self._diverged |= new
        if len(self._diverged) < len(self.seeds):
            for cause in new.values():
                self.progress.line(f"warning: {cause}; its policy stays as it was before, the other seeds go on")

    def check_seeds(self) -> None:
        """Raise NumbersError where a seed of the finished run has diverged."""
        if self._diverged:
            causes = "; ".join(self._diverged.values())
            raise NumbersError(f"the run is finished in {self.folder.path}, but not of every seed: {causes}")

    def _distil_initially(self) -> None:
        """The released control code's one-off phase: fit the initial policy to its own frozen copy's rollouts.

        Their env steps are no training steps; `result.json` gives them apart, as `initial_distillation_env_steps`.
        """
        learner, actor = self.state
        teacher, key = jax.tree.map(lambda x: x.copy(), learner), learner.key
        act, distil = self.programs.act, self.programs.distil
        for phase in range(self.config.distillation.initial_iterations):
            if self.is_stopping():
                self.leave_unchanged()
                raise self.stop.stopped()
            # The iteration stays 0, so the phases' draws are told apart by the key.
            folded = jax.vmap(lambda k, p=phase: jax.random.fold_in(k, INITIAL_DISTILLATION + p))(key)
            of_phase = jax.device_put(folded, key.sharding)
            actor, transitions = act(teacher._replace(key=of_phase), actor)
            assert distil is not None
            learner = distil(learner._replace(key=of_phase.copy()), transitions)
            # With several phases in flight, two devices may wait for each other: one in a collective, one to simulate.
            jax.block_until_ready(learner)
        self.state = TrainState(learner._replace(key=key), actor)

    def evaluate(self, num_episodes: int, *, recorded: bool = False) -> None:
        """Evaluate every seed, record it unless it was `recorded` before, and say so."""
        before = time.perf_counter()
        if jax.process_count() > 1:  # another process may be in a collective when this one is to save
            self._kept = to_host(self.state)
        with self.stop.abandonable(self.leave_saved if self.iteration > 0 else self.leave_unchanged):
            returns: Any = self.programs.evaluate(self.state.learner, num_episodes)
        self._kept = None
        elapsed = time.perf_counter() - before
        self.timings["evaluation_s"] += elapsed
        for index, seed in enumerate(self.seeds):
            if not recorded:
                record = evaluation_record(returns.random_noise[index], returns.zero_noise[index])
                self.evaluations.append(self._record("evaluation", seed, record | {"evaluation_s": elapsed}))
        self._best.offer(self.state, self.iteration, returns.random_noise.mean(1))
        self._returns = returns
        self._last_return = float(returns.random_noise.mean())
        per_seed = " ".join(f"{x:.0f}" for x in returns.random_noise.mean(1))
        self.progress.line(
            f"{self.wall_clock_s:7.1f} s  {self.env_steps / 1e6:6.2f}M env steps  return {self._last_return:6.1f}"
            f"  zero noise {returns.zero_noise.mean():6.1f}"
            + (f"  seeds {per_seed}" if len(self.seeds) > 1 else "")
            + f"  ({num_episodes} episodes)"
        )

    def save(self, *, required: bool = False) -> None:
        """Write the best policy and a checkpoint of everything, as `Saver.save` does."""
        self.folder.check()
        state = self.state
        if jax.process_count() > 1:
            state = self._kept or to_host(state)
        self._best.save()  # first: a kill in between makes the evaluations since the last checkpoint come again
        if is_first():
            self._saver.save(self.iteration, state, required=required)

    def leave_saved(self) -> None:
        """End in the course of training."""
        self.save(required=True)
        self.check_records()
        self._leave("stopped and saved; continue with")

    def leave_unchanged(self) -> None:
        """End before training has begun or gone on."""
        self._leave("stopped before training; start again with")

    def leave_finished(self) -> None:
        """End with the pictures missing."""
        self._leave("stopped while drawing: the run is finished and its result written; draw again with")

    def _leave(self, how: str) -> None:
        self.progress.line(f"{how} --resume --out {self.folder.path}")
        self.close()

    def check_records(self) -> None:
        """Raise StorageError where the run would end with records that the disk has not taken."""
        if not self.folder.metrics_are_written():
            raise StorageError(f"the last records of {self.folder.path} cannot be written; metrics.jsonl lacks them")

    def finish(self) -> dict[str, Any]:
        """Write the result and the pictures; say where they are. A result that stands already is left as it is."""
        result = self._standing_result()
        if not largest(result is not None):  # the same for all processes, of which the first may have one
            if not hasattr(self, "_returns"):  # stopped between the last iteration and its result
                self.evaluate(self.config.evaluation.num_episodes, recorded=self._is_evaluated())
            result = self.result()
            self.folder.write_result(result)
        self.check_records()
        learner = self.state.learner if jax.process_count() == 1 else to_host(self.state.learner)
        if isinstance(self.folder, RunFolder):
            with self.stop.abandonable(self.leave_finished):
                write_artifacts(
                    self.config,
                    self.folder,
                    self.programs,
                    learner,
                    self.evaluations,
                    start_note(self.config.task),
                    self.progress.line,
                )
        self.close()
        if result is None:
            return {}
        final, zero = (result[name]["mean"] for name in ("final_return", "final_return_zero_noise"))
        rate = result["env_steps_per_s"]
        self.progress.line(
            f"final return {_shown(final)}, zero noise {_shown(zero)}, "
            + ("" if rate is None else f"{rate:.0f} env steps/s; ")
            + f"everything is in {self.folder.path}"
        )
        return result

    def close(self) -> None:
        """End what writes and shows, and give the folder back."""
        self.logger.close()
        self._mujoco_log.close()
        self.folder.close()
        self.progress.close()

    def _standing_result(self) -> dict[str, Any] | None:
        """What `result.json` holds, None where none can be read; one of a shorter run was set aside before."""
        try:
            result = self.folder.read_result()
        except RunFolderError:
            return None
        return result if {"final_return", "final_return_zero_noise", "env_steps_per_s"} <= set(result or ()) else None

    def result(self) -> dict[str, Any]:
        """The content of `result.json`; `setup_s` and `compile_s` are those of the last session, other times of all."""
        trained = self._timed_iterations * self.config.steps_per_iteration * len(self.seeds)
        training_s = self.timings["training_s"]
        return {
            "task": self.config.task,
            "objective": self.config.objective.name,
            "beta": self.config.beta,
            "preset": self.config.preset,
            "backend": self.config.backend,
            "seeds": list(self.seeds),
            "env_steps": self.env_steps,
            "initial_distillation_env_steps": self.config.distillation.initial_iterations
            * self.config.steps_per_iteration,
            "wall_clock_s": self.wall_clock_s,
            **self.timings,
            "env_steps_per_s": trained / training_s if training_s > 0 else None,
            "num_devices": int(self.programs.layout.mesh.size),
            "final_return": summarise(self._returns.random_noise),
            "final_return_zero_noise": summarise(self._returns.zero_noise),
            "seconds_to": seconds_to(self.evaluations, self.seeds),
            "evaluation_return": best_and_last(self.evaluations, self.seeds),
            "note": start_note(self.config.task),
            "missing_records": self.holes,
            "diverged_seeds": sorted(self._diverged),
        }

    def _record(self, kind: str, seed: int, scalars: dict[str, Any]) -> dict[str, Any]:
        head = {"kind": kind, "seed": seed, "iteration": self.iteration, "env_steps": self.env_steps}
        record = head | {"wall_clock_s": round(self.wall_clock_s, 3)} | scalars
        self.folder.append_metrics(record)
        numbers = {f"{kind}/{n}": v for n, v in scalars.items() if isinstance(v, float) and np.isfinite(v)}
        self.logger.log(self.env_steps, numbers, seed)
        return record


def _open_folder(config: Config) -> RunFolder | SilentFolder:
    """The run's folder, which the first of its processes alone reads and writes."""
    assert config.out is not None
    if not is_first():
        return SilentFolder(config.out)
    return RunFolder.resume(config.out) if config.resume else RunFolder.create(config.out, to_json(config))


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"


def _scalars(metrics: dict[str, np.ndarray], index: int) -> dict[str, float]:
    return {name: float(values[index]) for name, values in metrics.items()}
