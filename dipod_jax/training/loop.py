"""The training loop: the only place that touches the disk, the clock and the terminal."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dipod_jax.config import Config
from dipod_jax.runs import (
    Progress,
    RunFolder,
    RunFolderError,
    Saver,
    StorageError,
    checkpoint_step,
    latest_checkpoint,
    make_logger,
    restore_checkpoint,
    set_newer_aside,
)
from dipod_jax.runs.signals import stop_requested
from dipod_jax.serialisation import to_json
from dipod_jax.training.artifacts import write_artifacts
from dipod_jax.training.programs import Programs, make_programs
from dipod_jax.training.results import best_and_last, interval95, seconds_to, start_note, summarise
from dipod_jax.training.state import INITIAL_DISTILLATION, TrainState, Tunables


def train(
    config: Config,
    *,
    started: float | None = None,
    programs: Programs | None = None,
    keep_checkpoints: int = 2,
    strict_resume: bool = False,
) -> dict[str, Any]:
    """Train as `config` says, and leave everything in its run folder.

    Args:
        config: resolved; preset and backend are not "auto", `out` is set.
        started: `time.perf_counter()` at which the clock of the run began; now where None.
        programs: compiled ones to use again, made for a config that differs in `Tunables` and folders only.
        keep_checkpoints: how many of the newest stay.
        strict_resume: refuse to go back to an older checkpoint where the newest is damaged, and to go on from records
            with holes.

    Returns:
        What `result.json` holds.

    Raises:
        RunFolderError, CheckpointError: the folder cannot be used.
        StorageError: what the run must leave behind cannot be written any more.
        KeyboardInterrupt: on SIGINT or SIGTERM, after the running iteration was saved.
    """
    run = Run(config, time.perf_counter() if started is None else started, programs, keep_checkpoints)
    run.strict = strict_resume
    with contextlib.closing(run), run.progress, stop_requested() as stop:
        run.start(stop)
        while run.iteration < config.num_iterations:
            run.iterate()
            if stop.is_set() and run.iteration < config.num_iterations:
                run.save(required=True)
                run.check_records()
                run.progress.line(f"stopped and saved; continue with --resume --out {run.folder.path}")
                raise KeyboardInterrupt
        return run.finish()


class Run:
    """One run's folder, clock and state."""

    def __init__(self, config: Config, started: float, programs: Programs | None = None, keep_checkpoints: int = 2):
        assert config.out is not None
        self.config, self.seeds = config, config.all_seeds
        self._started = self._clock_zero = started
        self._given = programs
        if config.resume:
            self.folder = RunFolder.resume(config.out)
        else:
            self.folder = RunFolder.create(config.out, to_json(config))
        self.progress = Progress(config.planned_steps * len(self.seeds), name=config.task)
        self.folder.say = self.progress.line
        if self.folder.taken_over_from is not None:
            self.progress.line(f"continuing for {self.folder.taken_over_from}, which was killed")
        self.logger = make_logger(
            config.logger, self.folder.path, to_json(config), name=config.out.name, say=self.progress.line
        )
        self.timings = {"setup_s": 0.0, "compile_s": 0.0, "training_s": 0.0, "evaluation_s": 0.0}
        self.evaluations: list[dict[str, Any]] = []
        self.iteration, self._timed_iterations = 0, 0
        self._last_return: float | None = None
        self.strict = False
        self._saver = Saver(self.folder.checkpoints, keep=keep_checkpoints, say=self.progress.line)

    @property
    def wall_clock_s(self) -> float:
        """Seconds since the command started, those of earlier parts of a resumed run included."""
        return time.perf_counter() - self._clock_zero

    @property
    def env_steps(self) -> int:
        """Env steps of each seed."""
        return self.iteration * self.config.steps_per_iteration

    def start(self, stop: threading.Event) -> None:
        """Build or restore the state; compile; distil and evaluate before the first update."""
        self.programs = self._given or make_programs(self.config, self.seeds)
        checkpoint = self._checkpoint_to_resume() if self.config.resume else None
        if checkpoint is None:
            self.state = self.programs.with_tunables(self.programs.init(), Tunables.of(self.config))
        else:
            state = restore_checkpoint(checkpoint, self.programs.abstract_state())
            tunables = Tunables.of(self.config)
            if self.config.beta == "auto":  # where the controller left it
                tunables = tunables.with_beta(state.learner.tunables.beta)
            self.state = self.programs.with_tunables(state, tunables)
        self.iteration = int(np.asarray(self.state.learner.iteration)[0])
        if self.config.resume:
            self.folder.update_config(to_json(self.config))  # a longer --total-steps must outlive the next kill
            if self.iteration < self.config.num_iterations:
                self.folder.set_result_aside()
            if checkpoint is None:
                self._set_metrics_aside()
            else:
                self._continue_records()
        jax.block_until_ready(self.state)
        self.timings["setup_s"] = time.perf_counter() - self._started
        before = time.perf_counter()
        self.programs = self.programs.compile()
        self.timings["compile_s"] = time.perf_counter() - before
        if self.iteration == 0:
            self._distil_initially(stop)
            self.evaluate(self.config.evaluation.num_episodes_during)  # where untrained policies stand needs no more

    def _checkpoint_to_resume(self) -> Path | None:
        checkpoint = latest_checkpoint(self.folder.checkpoints, strict=self.strict, say=self.progress.line)
        if checkpoint is not None:
            set_newer_aside(self.folder.checkpoints, checkpoint_step(checkpoint))
        return checkpoint

    def _set_metrics_aside(self) -> None:
        """Begin again where there is no checkpoint; what was recorded before is kept, and where is said."""
        if (kept := self.folder.set_metrics_aside()) is not None:
            self.progress.line(f"no checkpoint to continue from: training starts again; earlier metrics are in {kept}")

    def _continue_records(self) -> None:
        """Take up the metrics where the checkpoint stands, and the clocks where they stop."""
        self.folder.truncate_metrics(after_iteration=self.iteration)
        records = self.folder.read_metrics()
        self.evaluations = [r for r in records if r["kind"] == "evaluation"]
        self._clock_zero -= max((r["wall_clock_s"] for r in records), default=0.0)
        of_one_seed = [r for r in records if r["seed"] == self.seeds[0]]
        for kind in ("training", "evaluation"):
            self.timings[f"{kind}_s"] += sum(r.get(f"{kind}_s", 0.0) for r in of_one_seed)
        self._timed_iterations = sum("training_s" in r for r in of_one_seed)

    def iterate(self) -> None:
        """One iteration of every seed, then whatever is due after it."""
        before = time.perf_counter()
        drift, metrics = self._advance()
        elapsed = time.perf_counter() - before
        self.timings["training_s"] += elapsed
        self.iteration += 1
        self._timed_iterations += 1
        for index, seed in enumerate(self.seeds):
            self._record("train", seed, _scalars(metrics, index) | {"training_s": elapsed})
            if drift:
                self._record("drift", seed, _scalars(drift, index))
        total = len(self.seeds) * self.env_steps
        self.progress.update(total, len(self.seeds) * self.config.steps_per_iteration / elapsed, self._last_return)
        interval, last = self.config.evaluation.interval, self.iteration == self.config.num_iterations
        if last:
            self.evaluate(self.config.evaluation.num_episodes)
        elif self.env_steps // interval > (self.env_steps - self.config.steps_per_iteration) // interval:
            self.evaluate(self.config.evaluation.num_episodes_during)
        if last or self._saver.is_due(self.config.checkpoint_interval):
            self.save(required=last)

    def _advance(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Act, measure, control and distil what is due, learn; returns drift metrics, if any, and training metrics."""
        programs, config = self.programs, self.config
        learner, actor = self.state
        actor, transitions = programs.act(learner, actor)
        drift = {}
        if programs.measure is not None and self.iteration % config.drift.interval == 0:
            drift = jax.device_get(programs.measure(learner, transitions))
            if config.beta == "auto":
                learner = programs.control_beta(learner, drift["drift/gap"])
        interval = config.distillation.interval
        if programs.distil is not None and interval > 0 and (self.iteration + 1) % interval == 0:
            learner = programs.distil(learner, transitions)  # before it learns: these actions are still its own
        beta = np.asarray(learner.tunables.beta)
        learner, metrics = programs.learn(learner, transitions)
        self.state = TrainState(learner, actor)
        failures = np.asarray(actor.env.num_failures).sum(1)
        return drift, {**jax.device_get(metrics), "beta": beta, "failed_simulations": failures}

    def _distil_initially(self, stop: threading.Event) -> None:
        """The released control code's one-off phase: fit the initial policy to its own frozen copy's rollouts.

        Their env steps are no training steps; `result.json` gives them apart, as `initial_distillation_env_steps`.
        """
        learner, actor = self.state
        teacher, key = jax.tree.map(lambda x: x.copy(), learner), learner.key
        act, distil = self.programs.act, self.programs.distil
        for phase in range(self.config.distillation.initial_iterations):
            if stop.is_set():
                self.progress.line(f"stopped before training; start again with --resume --out {self.folder.path}")
                raise KeyboardInterrupt
            # The iteration stays 0, so the phases' draws are told apart by the key.
            of_phase = jax.device_put(
                jax.vmap(lambda k, p=phase: jax.random.fold_in(k, INITIAL_DISTILLATION + p))(key), key.sharding
            )
            actor, transitions = act(teacher._replace(key=of_phase), actor)
            assert distil is not None
            learner = distil(learner._replace(key=of_phase.copy()), transitions)
            # With several phases in flight, two devices may wait for each other: one in a collective, one to simulate.
            jax.block_until_ready(learner)
        self.state = TrainState(learner._replace(key=key), actor)

    def evaluate(self, num_episodes: int, *, recorded: bool = False) -> None:
        """Evaluate every seed, record it unless it was `recorded` before, and say so."""
        before = time.perf_counter()
        returns = jax.device_get(self.programs.evaluate(self.state.learner, num_episodes))
        elapsed = time.perf_counter() - before
        self.timings["evaluation_s"] += elapsed
        for index, seed in enumerate(self.seeds):
            random, zero = returns.random_noise[index], returns.zero_noise[index]
            bounds = interval95(random)
            record = {
                "return_mean": float(random.mean()),
                "return_ci95": None if bounds is None else (bounds[1] - bounds[0]) / 2,
                "return_std": float(random.std()),
                "zero_noise_return_mean": float(zero.mean()),
                "num_episodes": num_episodes,
                "evaluation_s": elapsed,
            }
            if not recorded:
                self.evaluations.append(self._record("evaluation", seed, record))
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
        """Write a checkpoint of everything, as `Saver.save` does."""
        self._saver.save(self.iteration, self.state, required=required)

    def check_records(self) -> None:
        """Raise StorageError where the run would end with records that the disk has not taken."""
        if not self.folder.metrics_are_written():
            raise StorageError(f"the last records of {self.folder.path} cannot be written; metrics.jsonl lacks them")

    def finish(self) -> dict[str, Any]:
        """Write the result and the pictures; say where they are. A result that stands already is left as it is."""
        result = self._standing_result()
        if result is None:
            if not hasattr(self, "_returns"):  # killed between the last iteration and its result
                self.evaluate(self.config.evaluation.num_episodes, recorded=True)
            result = self.result()
            self.folder.write_result(result)
        self.check_records()
        write_artifacts(
            self.config,
            self.folder,
            self.programs,
            self.state.learner,
            self.evaluations,
            start_note(self.config.task),
            self.progress.line,
        )
        self.close()
        final, rate = result["final_return"], result["env_steps_per_s"]
        self.progress.line(
            f"final return {final['mean']:.1f}, zero noise {result['final_return_zero_noise']['mean']:.1f}, "
            + ("" if rate is None else f"{rate:.0f} env steps/s; ")
            + f"everything is in {self.folder.path}"
        )
        return result

    def close(self) -> None:
        """End what writes and shows, and give the folder back."""
        self.logger.close()
        self.folder.close()
        self.progress.close()

    def _standing_result(self) -> dict[str, Any] | None:
        """What `result.json` holds, None where none can be read; one of a shorter run was set aside before."""
        try:
            return self.folder.read_result()
        except RunFolderError:
            return None

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
        }

    def _record(self, kind: str, seed: int, scalars: dict[str, Any]) -> dict[str, Any]:
        head = {"kind": kind, "seed": seed, "iteration": self.iteration, "env_steps": self.env_steps}
        record = head | {"wall_clock_s": round(self.wall_clock_s, 3)} | scalars
        self.folder.append_metrics(record)
        numbers = {f"{kind}/{n}": v for n, v in scalars.items() if isinstance(v, float) and np.isfinite(v)}
        prefix = f"seed{seed}/" if len(self.seeds) > 1 else ""
        self.logger.log(self.env_steps, {prefix + n: v for n, v in numbers.items()})
        return record


def _scalars(metrics: dict[str, np.ndarray], index: int) -> dict[str, float]:
    return {name: float(values[index]) for name, values in metrics.items()}
