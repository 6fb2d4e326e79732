"""A run's records, each a line in its folder and the same numbers in its event log; and its result."""

from __future__ import annotations

from typing import Any

import numpy as np

from dipod_jax.config import Config
from dipod_jax.runs import Progress, RunFolder, make_logger
from dipod_jax.runs.loggers import Logger, NullLogger
from dipod_jax.runs.silent import SilentFolder
from dipod_jax.serialisation import to_json
from dipod_jax.training.clock import Clock
from dipod_jax.training.hosts import is_first
from dipod_jax.training.results import best_and_last, seconds_to, start_note, summarise


class Records:
    """The records of a run's seeds."""

    def __init__(self, config: Config, folder: RunFolder | SilentFolder, clock: Clock):
        self._config, self._folder, self._clock = config, folder, clock
        self._logger: Logger = NullLogger()
        self.evaluations: list[dict[str, Any]] = []

    def open_logger(self, iteration: int, progress: Progress) -> None:
        """Start the event log, or continue it from `iteration`; a run that starts again clears it."""
        config = self._config
        resumed_at = config.steps_per_iteration * iteration if iteration > 0 else -1
        self._logger = make_logger(
            config.logger if is_first() else "none",
            self._folder.path,
            to_json(config),
            name=self._folder.path.name,
            seeds=config.all_seeds,
            resumed_at=resumed_at if config.resume else None,
            say=progress.line,
        )

    def take_up(self, records: list[dict[str, Any]]) -> None:
        """Continue from the records of earlier sessions."""
        self.evaluations = [r for r in records if r["kind"] == "evaluation"]

    def is_evaluated(self, iteration: int) -> bool:
        """Whether an evaluation after `iteration` iterations is on record."""
        return any(e["iteration"] == iteration for e in self.evaluations)

    def add(self, kind: str, seed: int, iteration: int, scalars: dict[str, Any]) -> None:
        """Record `scalars` of one seed after `iteration` iterations; drift is the last acting policy's."""
        env_steps = iteration * self._config.steps_per_iteration
        head = {"kind": kind, "seed": seed, "iteration": iteration, "env_steps": env_steps}
        record = head | {"wall_clock_s": round(self._clock.wall_clock_s, 3)} | scalars
        self._folder.append_metrics(record)
        if kind == "evaluation":
            self.evaluations.append(record)
        numbers = {f"{kind}/{n}": v for n, v in scalars.items() if isinstance(v, float) and np.isfinite(v)}
        self._logger.log(env_steps, numbers, seed)

    def result(self, env_steps: int, returns: Any) -> dict[str, Any]:
        """What `result.json` says of training and its last evaluation, whose `returns` are (S, E).

        `setup_s` and `compile_s` are those of the last session, other times of all.
        """
        config, clock, seeds = self._config, self._clock, self._config.all_seeds
        return {
            "task": config.task,
            "objective": config.objective.name,
            "beta": config.beta,
            "preset": config.preset,
            "backend": config.backend,
            "seeds": list(seeds),
            "env_steps": env_steps,
            "initial_distillation_env_steps": config.distillation.initial_iterations * config.steps_per_iteration,
            "wall_clock_s": clock.wall_clock_s,
            **clock.timings,
            "env_steps_per_s": clock.rate(config.steps_per_iteration * len(seeds)),
            "final_return": summarise(returns.random_noise),
            "final_return_zero_noise": summarise(returns.zero_noise),
            "seconds_to": seconds_to(self.evaluations, seeds),
            "evaluation_return": best_and_last(self.evaluations, seeds),
            "note": start_note(config.task),
        }

    def close(self) -> None:
        """End the event log."""
        self._logger.close()
