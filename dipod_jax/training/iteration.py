"""One iteration over a run's programs: act, measure, distil, learn; and the phases of distillation before the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from dipod_jax.config import Config
from dipod_jax.training.hosts import to_host
from dipod_jax.training.numbers import find_causes
from dipod_jax.training.programs import Programs
from dipod_jax.training.state import INITIAL_DISTILLATION, TrainState


class Advanced(NamedTuple):
    """The result of one iteration; metrics are (S,), on the host."""

    state: TrainState
    drift: dict[str, np.ndarray]
    """empty where it was not measured"""
    metrics: dict[str, np.ndarray]
    causes: dict[int, str]
    """of each seed that has diverged, why (`numbers.find_causes`)"""


def advance(config: Config, programs: Programs, state: TrainState, iteration: int) -> Advanced:
    """One iteration: act; measure the drift, adjust beta and distil if that is due after `iteration` iterations;
    learn."""
    learner, actor = state
    actor, transitions = programs.act(learner, actor)
    drift = {}
    if programs.measure is not None and iteration % config.drift.interval == 0:
        drift = to_host(programs.measure(learner, transitions))
        if config.beta == "auto":
            learner = programs.control_beta(learner, drift["drift/gap"])
    interval = config.distillation.interval
    if programs.distil is not None and interval > 0 and (iteration + 1) % interval == 0:
        learner = programs.distil(learner, transitions)  # before it learns: these actions are still its own
    beta = to_host(learner.tunables.beta)
    learner, metrics = programs.learn(learner, transitions)
    state = TrainState(learner, actor)
    metrics = to_host(metrics)
    causes = find_causes(config.all_seeds, metrics, transitions)
    own = {"beta": beta, "failed_simulations": to_host(actor.env.num_failures).sum(1)}
    return Advanced(state, drift, metrics | own, causes)


def distil_initially(config: Config, programs: Programs, state: TrainState, check: Callable[[], None]) -> TrainState:
    """The released control code's one-off phase: fit the initial policy to its own frozen copy's rollouts.

    Their env steps are no training steps; `result.json` gives them apart, as `initial_distillation_env_steps`.

    Args:
        check: called before each phase; it ends the phases by raising.
    """
    learner, actor = state
    teacher, key = jax.tree.map(lambda x: x.copy(), learner), learner.key
    act, distil = programs.act, programs.distil
    for phase in range(config.distillation.initial_iterations):
        check()
        # The iteration stays 0, so the phases' draws are told apart by the key.
        folded = jax.vmap(lambda k, p=phase: jax.random.fold_in(k, INITIAL_DISTILLATION + p))(key)
        of_phase = jax.device_put(folded, key.sharding)
        actor, transitions = act(teacher._replace(key=of_phase), actor)
        assert distil is not None
        learner = distil(learner._replace(key=of_phase.copy()), transitions)
        # With several phases in flight, two devices may wait for each other: one in a collective, one to simulate.
        jax.block_until_ready(learner)
    return TrainState(learner._replace(key=key), actor)
