"""Several seeds of a whole program under the vmap that accelerators take, forced on a CPU: as one after the other."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from dipod_jax.presets import smoke
from dipod_jax.training import sharding
from dipod_jax.training.programs import make_programs


def iterate(monkeypatch, *, vmapped):
    """Metrics of two iterations and the parameters after them, on MJX; an own task with one joint compiles quickly."""
    config = replace(smoke("own_task:make_env", "fpo"), backend="mjx")
    with monkeypatch.context() as patch:
        if vmapped:
            patch.setattr(sharding.jax, "default_backend", lambda: "an accelerator")
        programs = make_programs(config, (0, 1, 2))
        state = programs.init()
        metrics = []
        for _ in range(2):
            state, own = programs.iterate(state)
            metrics.append(own)
    return jax.tree.map(np.asarray, (metrics, state.learner.params))


@pytest.mark.slow
def test_three_seeds_on_two_devices_train_alike_vmapped_and_one_after_the_other(monkeypatch):
    together, in_turn = iterate(monkeypatch, vmapped=True), iterate(monkeypatch, vmapped=False)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-3, atol=1e-3), together, in_turn)
    (metrics, _), seeds = together, range(3)
    assert len({float(metrics[1]["value_loss"][i]) for i in seeds}) == 3
    assert metrics[1]["skipped_updates"].tolist() == [0.0] * 3
