"""Native physics: MuJoCo's own mj_step as the oracle, the same bits on any threads and shards, failures, no leak."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax import envs
from dipod_jax.envs.native import NativeTask
from dipod_jax.envs.playground import load_task
from dipod_jax.envs.tasks import TASKS

ENVS, STEPS = 8, 12


def bits(tree):
    """Leaves as numpy, typed keys as their data, so that trees can be compared exactly."""
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def assert_same_bits(a, b):
    for left, right in zip(bits(a), bits(b), strict=True):
        assert_array_equal(left, right)


def seed_of(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def random_actions(env, steps=STEPS, num_envs=ENVS, seed=1):
    return jax.random.uniform(jax.random.key(seed), (steps, num_envs, env.action_size), minval=-1.0)


def scan(env):
    return lambda state, actions: jax.lax.scan(env.step, state, actions)


QUICK = ("BallInCup", "FingerSpin", "FishSwim", "HumanoidRun")  # of all 25; the others are slow tests


@pytest.fixture(scope="module")
def cup():
    return envs.make("BallInCup", episode_length=STEPS // 2)


@pytest.fixture(scope="module")
def roll(cup):
    return jax.jit(scan(cup))


@pytest.fixture(scope="module")
def swing(cup, roll):
    """A start state, actions, and what comes of them; every episode is cut once in between."""
    state = jax.jit(cup.reset, static_argnums=1)(jax.random.key(0), ENVS)
    actions = random_actions(cup)
    return state, actions, *roll(state, actions)


def with_state(env_state, **values):
    """The same batch with fields of the simulation replaced, values (B, n)."""
    replace = jax.vmap(lambda data, new: data.replace(**new))
    return env_state._replace(physics=env_state.physics.replace(data=replace(env_state.physics.data, values)))


@pytest.mark.parametrize("in_the_cup", [False, True])
def test_ball_in_cup_follows_mujocos_own_steps(in_the_cup):
    env = envs.make("BallInCup")
    state = env.reset(jax.random.key(0), ENVS)
    qpos = np.zeros((ENVS, 4), np.float32)
    if in_the_cup:
        qpos[:, 3] = np.linspace(0.25, 0.6, ENVS)
    state = with_state(state, qpos=jnp.asarray(qpos))
    actions = random_actions(env)
    _, result = jax.jit(scan(env))(state, actions)

    model = env.mj_model
    ball, target = model.body("ball").id, model.site("target").id
    size = model.site_size[target, [0, 2]] - model.geom_size[model.geom("ball").id, 0]
    substeps = round(env.dt / model.opt.timestep)
    rewards = np.zeros((STEPS, ENVS))
    for i in range(ENVS):
        data = mujoco.MjData(model)
        data.qpos[:] = qpos[i]
        for t in range(STEPS):
            data.ctrl[:] = actions[t, i]
            for _ in range(substeps):
                mujoco.mj_step(model, data)
            obs = np.concatenate([data.qpos, data.qvel])
            assert_allclose(result.next_obs[t, i], obs, atol=0.02 if in_the_cup else 1e-4)
            offset = np.abs(data.site_xpos[target, [0, 2]] - data.xpos[ball, [0, 2]])
            rewards[t, i] = (offset < size).all()
    assert_array_equal(result.reward, rewards)
    # random actions alone never score, and then equal rewards prove little
    assert 0.05 < rewards.mean() < 0.95 if in_the_cup else rewards.sum() == 0


def test_one_and_two_threads_give_the_same_bits(cup, swing):
    state, actions, *single = swing
    threaded = envs.make("BallInCup", episode_length=cup.episode_length, num_threads=2)
    start = jax.jit(threaded.reset, static_argnums=1)(jax.random.key(0), ENVS)
    assert_same_bits(start, state)
    assert_same_bits(jax.jit(scan(threaded))(start, actions), single)


def test_two_concurrent_shards_give_the_same_bits_as_one_device(cup, swing):
    state, actions, _, result = swing
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    batched, time_first = PartitionSpec("data"), PartitionSpec(None, "data")
    sharded = jax.shard_map(
        scan(cup), mesh=mesh, in_specs=(batched, time_first), out_specs=(batched, time_first), check_vma=False
    )
    state = state._replace(starts=jax.tree.map(lambda x: jnp.concatenate([x, x]), state.starts))  # one a shard
    assert mesh.size == 2 and state.starts.reward.shape == (2,)
    assert_same_bits(jax.jit(sharded)(state, actions)[1], result)


def test_vmap_over_seeds_gives_the_same_bits_as_each_seed_alone(cup, roll):
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    actions = random_actions(cup, num_envs=2 * ENVS).reshape(STEPS, 2, ENVS, -1).swapaxes(0, 1)
    states = jax.jit(jax.vmap(lambda key: cup.reset(key, ENVS)))(keys)
    together = jax.jit(jax.vmap(scan(cup)))(states, actions)
    for index in range(2):
        alone = roll(seed_of(states, index), actions[index])
        assert_same_bits(seed_of(together, index), alone)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e12])
@pytest.mark.parametrize("field", ["qpos", "qvel"])
def test_a_simulation_that_mujoco_gives_up_is_reset_and_counted_and_touches_no_other(swing, roll, field, value):
    state, actions, _, good = swing
    broken = with_state(state, **{field: getattr(state.physics.data, field).at[3].set(value)})
    broken_state, result = roll(broken, actions)
    assert result.terminated[0, 3] and result.reward[0, 3] == 0.0 and result.episode_length[0, 3] == 1
    assert_array_equal(broken_state.num_failures, np.arange(ENVS) == 3)
    assert all(np.isfinite(x).all() for x in bits((broken_state.physics, result)))
    others = np.arange(ENVS) != 3
    assert_same_bits(*(jax.tree.map(lambda x: x[:, others], r) for r in (good, result)))
    # its next episode is BallInCup's one start state under that step's actions
    _, fresh = roll(state, jnp.roll(actions, -1, 0))
    assert_array_equal(result.next_obs[1:5, 3], fresh.next_obs[:4, 3])


def test_the_compiled_program_is_traced_once_and_its_state_strongly_typed(cup):
    traces = []

    @jax.jit
    def run(state, actions):
        traces.append(None)
        return scan(cup)(state, actions)[0]

    state = jax.jit(cup.reset, static_argnums=1)(jax.random.key(0), ENVS)
    numbers = [x for x in jax.tree.leaves(state) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    assert not any(x.weak_type for x in numbers)
    for _ in range(2):
        state = run(state, random_actions(cup, steps=1))
    assert len(traces) == 1


def resident_bytes():
    import resource

    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_ten_thousand_calls_leave_no_memory_behind():
    env = envs.make("PendulumSwingup")
    state = jax.jit(env.reset, static_argnums=1)(jax.random.key(0), 2)
    run = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: (env.step(s, jnp.zeros((2, 1)))[0], None), state, length=1000)[0]
    )
    state = jax.block_until_ready(run(state))
    before = resident_bytes()
    for _ in range(10):
        state = jax.block_until_ready(run(state))
    grown = resident_bytes() - before
    # a simulation batch of two pendulums is about 20 kB; one left behind a call would be 200 MB
    assert grown < 20e6


@pytest.mark.parametrize("task", [t if t in QUICK else pytest.param(t, marks=pytest.mark.slow) for t in TASKS])
def test_every_task_runs_on_native_physics(task):
    env = envs.make(task)

    def run(key):
        state = env.reset(key, 2, num_starts=1)
        return state.obs, scan(env)(state, random_actions(env, steps=3, num_envs=2))

    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    obs, (state, result) = jax.jit(run).lower(jax.random.key(0)).compile(quick)(jax.random.key(0))
    assert obs.shape == (2, env.observation_size) and result.next_obs.shape == (3, 2, env.observation_size)
    assert np.isfinite(result.next_obs).all() and state.num_failures.sum() == 0
    assert (result.reward >= 0.0).all() and (result.reward <= 1.0).all()
    # random actions move something: the observation is not a constant
    assert not np.array_equal(result.next_obs[0], result.next_obs[2])


def test_a_task_that_reads_what_the_native_engine_lacks_says_so_in_one_line():
    task = load_task("BallInCup", impl="jax")
    task._get_obs = lambda data, info: data.efc_force
    with pytest.raises(ValueError, match=r"BallInCup cannot run on native physics.*efc_force.*mjx") as refused:
        NativeTask(task)
    assert "\n" not in str(refused.value)


def test_a_derived_field_cannot_be_set(swing):
    with pytest.raises(AttributeError, match=r"xpos cannot be set.*mjx"):
        swing[0].physics.data.replace(xpos=jnp.zeros(3))


def test_an_action_that_is_not_a_number_ends_that_episode_and_no_other():
    # mj_step itself would take the control as 0 and carry on
    env = envs.make("BallInCup", "native")
    step = jax.jit(env.step)
    action = jnp.zeros((2, 2)).at[0, 0].set(jnp.nan)
    state, result = step(jax.jit(lambda key: env.reset(key, 2))(jax.random.key(0)), action)
    assert result.terminated.tolist() == [True, False]
    assert state.num_failures.tolist() == [1, 0]
    assert bool(jnp.isfinite(state.obs).all() & jnp.isfinite(result.next_obs).all())
