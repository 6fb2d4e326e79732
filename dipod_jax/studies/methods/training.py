"""Training one unit in memory: returns, gap and cosine along the way, and the seconds of acting and learning."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from dipod_jax.studies.methods.units import Unit
from dipod_jax.training.numbers import MOST_IN_A_ROW
from dipod_jax.training.programs import Programs, make_programs
from dipod_jax.training.resuming import fresh_state
from dipod_jax.training.state import TrainState

MEASURES = {"gap": "drift/gap", "cosine": "drift/gradient_cosine"}


class Trainer:
    """Trains units, with one compiled program for those that differ in `Tunables`, seeds and lengths only."""

    def __init__(self) -> None:
        self._method: tuple[str, str] | None = None
        self._programs: dict[tuple[int, bool], Programs] = {}

    def train(self, unit: Unit) -> dict[str, Any]:
        """What `result.json` of the unit holds beside its description."""
        before = time.perf_counter()
        programs = self._programs_of(unit)
        compile_s = time.perf_counter() - before
        return {"compile_s": compile_s} | train(unit, programs)

    def _programs_of(self, unit: Unit) -> Programs:
        if self._method != (unit.task, unit.objective):  # another method's programs would only take memory
            self._method, self._programs = (unit.task, unit.objective), {}
            jax.clear_caches()
        key = len(unit.config.all_seeds), unit.reported
        if key not in self._programs:
            self._programs[key] = make_programs(unit.config, unit.config.all_seeds).compile()
        return dataclasses.replace(self._programs[key], config=unit.config, seeds=unit.config.all_seeds)


def train(unit: Unit, programs: Programs) -> dict[str, Any]:
    """Train all seeds from the start to the end.

    Returns:
        {"env_steps", "evaluations": [{"env_steps", "return": (S,), "zero_noise": (S,)}], "drift": [{"env_steps", "gap":
        (S,), "cosine": (S,)}], "training_s" of acting and learning, "evaluation_s", "skipped_updates": (S,)}, S seeds;
        returns are NaN from where a seed has diverged (`training.numbers`).
    """
    config, num_iterations = unit.config, unit.config.num_iterations
    state, seconds, evaluation_s = fresh_state(config, programs), 0.0, 0.0
    evaluations, drift, skipped, learns = [], [], np.zeros(len(config.all_seeds)), np.ones(len(config.all_seeds), bool)
    for iteration in range(1, num_iterations + 1):
        env_steps, due = iteration * config.steps_per_iteration, is_due(iteration, num_iterations, unit.points)
        state, metrics, measured, elapsed = _iterate(programs, state, measure=due)
        seconds += elapsed
        skipped += metrics["skipped_updates"]
        learns &= metrics["skipped_in_a_row"] < MOST_IN_A_ROW
        if measured:
            drift.append({"env_steps": env_steps - config.steps_per_iteration} | measured)
        if due:
            last = iteration == num_iterations
            episodes = config.evaluation.num_episodes if last else config.evaluation.num_episodes_during
            before = time.perf_counter()
            returns = programs.evaluate(state.learner, episodes)
            evaluation_s += time.perf_counter() - before
            of_kind = {"return": returns.random_noise, "zero_noise": returns.zero_noise}
            means = {kind: np.where(learns, of_episodes.mean(1), np.nan) for kind, of_episodes in of_kind.items()}
            evaluations.append({"env_steps": env_steps} | means)
    return {
        "env_steps": config.planned_steps,
        "evaluations": evaluations,
        "drift": drift,
        "training_s": seconds,
        "evaluation_s": evaluation_s,
        "skipped_updates": skipped,
    }


def is_due(iteration: int, num_iterations: int, points: int) -> bool:
    """Whether one of `points` equal parts of the iterations 1 .. `num_iterations` ends with this one."""
    return iteration * points // num_iterations > (iteration - 1) * points // num_iterations


def _iterate(
    programs: Programs, state: TrainState, *, measure: bool
) -> tuple[TrainState, dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """One iteration: the state, training metrics, what was measured in it, and its seconds without the measurement."""
    before = time.perf_counter()
    learner, actor = state
    actor, transitions = programs.act(learner, actor)
    measured, paused = {}, 0.0
    if measure and programs.measure is not None:
        jax.block_until_ready(transitions)
        start = time.perf_counter()
        metrics = jax.device_get(programs.measure(learner, transitions))
        measured, paused = {name: metrics[key] for name, key in MEASURES.items()}, time.perf_counter() - start
    learner, metrics = programs.learn(learner, transitions)
    metrics = jax.device_get(metrics)
    return TrainState(learner, actor), metrics, measured, time.perf_counter() - before - paused
