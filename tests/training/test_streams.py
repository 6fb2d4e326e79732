"""No two random numbers of a run have one key: every draw of every stream is written down, and all are different."""

from collections import Counter, defaultdict
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_tasks import TargetTask
from small import TINY, probe_programs

from dipod_jax import viz
from dipod_jax.config import DistillationConfig, DriftConfig
from dipod_jax.training import artifacts
from dipod_jax.training import programs as programs_module
from dipod_jax.training.evaluation import record
from dipod_jax.training.learner import Learner
from dipod_jax.training.loop import Run

ENDS = ("normal", "uniform", "randint", "permutation", "bits")
STEMS = ("split", "fold_in")
CONFIG = replace(
    TINY,
    rollout=replace(TINY.rollout, num_steps=4, num_envs=8),
    policy=replace(TINY.policy, hidden_sizes=(4,), action_noise=0.1, noise_correlation=0.5, num_draws=2, num_steps=2),
    learning=replace(TINY.learning, minibatch_size=16, num_epochs=2),
    evaluation=replace(TINY.evaluation, num_episodes_during=2),
    drift=DriftConfig(interval=1, num_samples=16),
    distillation=DistillationConfig(interval=1, num_steps=2, minibatch_size=8, actions="redrawn", initial_iterations=2),
    logger="none",
)


class Still(NamedTuple):
    qpos: jax.Array
    mocap_pos: jax.Array
    mocap_quat: jax.Array


class FilmState(NamedTuple):
    obs: jax.Array
    reward: jax.Array
    done: jax.Array
    data: Still


class FilmedTask(TargetTask):
    """`TargetTask` with something to film."""

    def reset(self, key):
        return FilmState(*super().reset(key), Still(*[jnp.zeros(1)] * 3))

    def step(self, state, action):
        return FilmState(*super().step(state, action), state.data)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Bytes of every key by what it was used for, over two seeds, two initial phases, two iterations and a video."""
    seen = defaultdict(list)
    with pytest.MonkeyPatch.context() as patch:
        write_down = lambda name, key: jax.debug.callback(
            lambda data: seen[name].append(np.asarray(data).tobytes()), jax.random.key_data(key)
        )

        def watch(where, attribute, name, position):
            original = getattr(where, attribute)

            def watched(*args, **kwargs):
                write_down(name, args[position])
                return original(*args, **kwargs)

            patch.setattr(where, attribute, watched)

        for name in (*ENDS, *STEMS):
            watch(jax.random, name, name, 0)
        for name, position in (("rollout", 5), ("measure_drift", 4), ("distil", 5), ("evaluate", 4)):
            watch(programs_module, name, f"to {name}", position)
        watch(Learner, "update", "to update", 3)
        patch.setattr(artifacts, "write_policy_videos", film(write_down))
        for name in ("plot_returns", "plot_drift"):
            patch.setattr(viz, name, lambda *_, **__: None)
        go_through(tmp_path_factory)
        jax.effects_barrier()
    return seen


def film(write_down):
    """What a video draws, without the picture."""

    def filmed(env, policy, takes, say):
        for params, statistics, key in takes.values():
            write_down("to video", key)
            jax.jit(lambda key, p=params, s=statistics: record(env, policy, p, s, key, 2))(key)

    return filmed


def go_through(tmp_path_factory):
    """Everything that two seeds do until their end, by the loop where the loop has a hand in it."""
    programs = probe_programs(CONFIG, task=FilmedTask)
    for seed in (0, 1):
        config = replace(CONFIG, out=tmp_path_factory.mktemp("runs") / "run", seed_list=(seed,))
        run = Run(config, 0.0)
        run.programs, run.state = programs, programs.init_state(jnp.asarray((seed,), jnp.uint32))
        run._distil_initially()
        for _ in range(2):
            programs.evaluate(run.state.learner, 3)
            run._advance()
        programs.evaluate(run.state.learner, 3)
        artifacts.write_artifacts(config, run.folder, programs, run.state.learner, [0.0], [], None, print)
        run.close()


def test_what_was_done_is_what_a_run_does(keys):
    counts = {name[3:]: len(values) for name, values in keys.items() if name.startswith("to ")}
    # of each of two seeds: two initial phases, two iterations, three evaluations of two chunks, one video
    assert counts == {"rollout": 8, "measure_drift": 4, "distil": 8, "update": 4, "evaluate": 12, "video": 2}
    # an update shuffles each of 4 blocks once an epoch; a measurement takes rows at random and shuffles these once more
    assert len(keys["bits"]) == 4 * 2 * 4 and len(keys["permutation"]) == 4 * 2
    assert len(keys["normal"]) > 500 and len(keys["randint"]) > 500


def test_no_two_streams_are_handed_one_key(keys):
    handed = [value for name, values in keys.items() if name.startswith("to ") for value in values]
    assert len(handed) == len(set(handed)) == 38


def test_no_key_is_drawn_from_twice(keys):
    drawn = Counter(value for name in ENDS for value in keys[name])
    assert max(drawn.values()) == 1
    assert len(drawn) > 1000


def test_no_key_is_drawn_from_that_others_were_made_of(keys):
    stems = {value for name in STEMS for value in keys[name]}
    assert stems.isdisjoint(value for name in ENDS for value in keys[name])
