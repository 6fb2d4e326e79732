"""The training loop; with its clock and its records, the only place that touches disk, time and terminal."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import jax
import numpy as np

from dipod_jax import envs
from dipod_jax.cli import resume_command
from dipod_jax.config import Config
from dipod_jax.envs.tasks import is_own_task
from dipod_jax.runs import BEST, NumbersError, Progress, RunFolder, Saver, StorageError
from dipod_jax.runs.mujoco_log import MujocoLog
from dipod_jax.runs.signals import StopRequest, stop_requested
from dipod_jax.runs.watch import Watch
from dipod_jax.training.artifacts import write_artifacts
from dipod_jax.training.best import BestKeeper
from dipod_jax.training.clock import Clock
from dipod_jax.training.hosts import is_first, largest, to_host
from dipod_jax.training.iteration import advance, distil_initially
from dipod_jax.training.numbers import stopped_by
from dipod_jax.training.programs import Programs, make_programs
from dipod_jax.training.records import Records
from dipod_jax.training.results import evaluation_line, evaluation_record, final_line, start_note, times_line
from dipod_jax.training.resuming import Resumed, evaluation_is_due, fresh_state, open_folder, resume, standing_result
from dipod_jax.training.state import TrainState


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
        NumbersError: the last updates of every seed were skipped because their gradients were not finite; or those of
            some seeds, raised when the others have finished.
        Stopped: on SIGINT, SIGTERM or SIGHUP, after the running iteration was saved. If a signal comes during a
            compilation, an evaluation or the drawing of pictures, the process saves and ends instead; a second signal
            ends it at once.
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
        self._given = programs
        self.folder = open_folder(config)
        self.progress = Progress(config.planned_steps * len(self.seeds), name=config.task, silent=not is_first())
        self.folder.say = self.progress.line
        if self.folder.taken_over_from is not None:
            self.progress.line(f"continuing for {self.folder.taken_over_from}")
        self.clock = Clock(started, "setup_s", "compile_s", "training_s", "evaluation_s")
        self.records = Records(config, self.folder, self.clock)
        self.iteration = 0
        self._last_return: float | None = None
        self.holes: str | None = None
        self._diverged: dict[int, str] = {}  # seed -> why
        self._mujoco_log = MujocoLog(self.folder.path if is_first() else None, self.progress.line)
        self._kept: TrainState | None = None  # on the host, where an evaluation may be abandoned
        self._best = BestKeeper(self.folder.checkpoints / BEST, self.progress.line)
        self._saver = Saver(self.folder.checkpoints, keep=config.keep_checkpoints, say=self.progress.line)

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
            self.records.open_logger(self.iteration, self.progress)
            jax.block_until_ready(self.state)
            self.clock.note_setup()
            before = time.perf_counter()
            if self._given is None:
                self.progress.line("compiling ...")
            self.programs = self.programs.compile()
            self.clock.add("compile_s", before)
        if self.iteration == 0:
            self._distil_initially()
        if self._is_due() and not self.records.is_evaluated(self.iteration):  # new, or stopped while it was made
            self.evaluate(self.config.evaluation.num_episodes_during)

    def _is_due(self) -> bool:
        """Whether an evaluation in the course of training belongs here; the last iteration's is a larger one."""
        return self.iteration < self.config.num_iterations and evaluation_is_due(self.config, self.iteration)

    def _take_up(self, resumed: Resumed) -> None:
        """Go on from a state, with the clocks where they stopped."""
        state, records, self.holes = resumed
        assert state is not None
        self.state, self.iteration = state, int(to_host(state.learner.iteration)[0])
        if self.iteration > 0:
            self._best.take_up(self.state)
        self.records.take_up(records)
        self.clock.take_up(records, self.seeds[0])
        for r in records:
            if r.get("diverged"):
                self._diverged.setdefault(r["seed"], f"seed {r['seed']} diverged in iteration {r['iteration']}")

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
        elapsed = self.clock.add("training_s", before)
        self._mujoco_log.check()
        self.iteration += 1
        for index, seed in enumerate(self.seeds):
            self.records.add("train", seed, self.iteration, _scalars(metrics, index) | {"training_s": elapsed})
            if drift:
                self.records.add("drift", seed, self.iteration, _scalars(drift, index))
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
        """One iteration; returns drift metrics, if any, and training metrics."""
        self.state, drift, metrics, causes = advance(self.config, self.programs, self.state, self.iteration)
        self._note_diverged(causes)
        return drift, metrics | {"diverged": np.array([float(seed in self._diverged) for seed in self.seeds])}

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
        """The phases before the first iteration, until the run is asked to stop."""

        def check() -> None:
            if self.is_stopping():
                self.leave_unchanged()
                raise self.stop.stopped()

        self.state = distil_initially(self.config, self.programs, self.state, check)

    def evaluate(self, num_episodes: int, *, recorded: bool = False) -> None:
        """Evaluate every seed, record it unless it was `recorded` before, and say so."""
        before = time.perf_counter()
        if jax.process_count() > 1:  # another process may be in a collective when this one is to save
            self._kept = to_host(self.state)
        with self.stop.abandonable(self.leave_saved if self.iteration > 0 else self.leave_unchanged):
            returns: Any = self.programs.evaluate(self.state.learner, num_episodes)
        self._kept = None
        elapsed = self.clock.add("evaluation_s", before)
        for index, seed in enumerate(() if recorded else self.seeds):
            record = evaluation_record(returns.random_noise[index], returns.zero_noise[index])
            self.records.add("evaluation", seed, self.iteration, record | {"evaluation_s": elapsed})
        self._best.offer(self.state, self.iteration, returns.random_noise.mean(1))
        self._returns = returns
        self._last_return = float(returns.random_noise.mean())
        self.progress.line(evaluation_line(self.clock.wall_clock_s, self.env_steps, returns))

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
        """End during training."""
        self.save(required=True)
        self.check_records()
        self._leave("stopped and saved; continue with")

    def leave_unchanged(self) -> None:
        """End before training has begun or gone on."""
        self._leave("stopped before training; start again with")

    def leave_finished(self) -> None:
        """End after training, without the pictures."""
        self._leave("stopped while drawing: the run is finished and its result written; draw again with")

    def _leave(self, how: str) -> None:
        self.progress.line(f"{how} {resume_command('train', self.folder.path)}")
        self.close()

    def check_records(self) -> None:
        """Raise StorageError where the run would end with records that the disk has not taken."""
        if not self.folder.metrics_are_written():
            raise StorageError(f"the last records of {self.folder.path} cannot be written; metrics.jsonl lacks them")

    def finish(self) -> dict[str, Any]:
        """Write the result and the pictures; say where they are. An existing result is left as it is."""
        result = standing_result(self.folder)
        if not largest(result is not None):  # the same for all processes, of which the first may have one
            if not hasattr(self, "_returns"):  # stopped between the last iteration and its result
                self.evaluate(self.config.evaluation.num_episodes, recorded=self.records.is_evaluated(self.iteration))
            result = self.result()
            self.folder.write_result(result)
        self.check_records()
        learner = self.state.learner if jax.process_count() == 1 else to_host(self.state.learner)
        before = time.perf_counter()
        if isinstance(self.folder, RunFolder):
            assert result is not None, "whoever has the folder has its result"
            with self.stop.abandonable(self.leave_finished):
                write_artifacts(
                    self.config,
                    self.folder,
                    self.programs,
                    learner,
                    result["final_return"]["per_seed"],
                    self.records.evaluations,
                    start_note(self.config.task),
                    self.progress.line,
                )
        artifacts_s = time.perf_counter() - before
        self.close()
        if result is None:
            return {}
        self.progress.line(times_line(self.clock.wall_clock_s, self.clock.timings | {"artifacts_s": artifacts_s}))
        self.progress.line(final_line(result, self.folder.path))
        return result

    def close(self) -> None:
        """End what writes and shows, and give the folder back."""
        self.records.close()
        self._mujoco_log.close()
        self.folder.close()
        self.progress.close()

    def result(self) -> dict[str, Any]:
        """The content of `result.json`."""
        return self.records.result(self.env_steps, self._returns) | {
            "num_devices": int(self.programs.layout.mesh.size),
            "missing_records": self.holes,
            "diverged_seeds": sorted(self._diverged),
        }


def _scalars(metrics: dict[str, np.ndarray], index: int) -> dict[str, float]:
    return {name: float(values[index]) for name, values in metrics.items()}
