"""Tasks by name, and one of one's own: it runs on native physics and MJX; what is wrong with it is said in one line."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from own_task import Cart
from refusals import errors_of

from dipod_jax import envs, make_config
from dipod_jax.envs.tasks import TASKS, check_found, is_own_task
from dipod_jax.runs.errors import TaskError
from dipod_jax.serialisation import from_json, to_json

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
ENVS, STEPS, LIMIT = 2, 8, 5

MODULE = """
import jax.numpy as jnp
from own_task import Cart

number = 3
def list_of_tasks(): return [Cart()]
def for_one_physics(): return Cart()
def with_overrides(config_overrides=None): return Cart(**config_overrides)

class Dict(Cart):
    def _observe(self, data): return {"state": data.qpos}
class Matrix(Cart):
    def _observe(self, data): return jnp.zeros((2, 2))
class Growing(Cart):
    def step(self, state, action):
        state = super().step(state, action)
        return state.replace(info={"steps": jnp.zeros(())})
class Silent(Cart):
    def _observe(self, data): return jnp.zeros(0)
class Counted(Cart):
    def _observe(self, data): return jnp.zeros(2, int)
class Idle(Cart):
    action_size = 0
class Crew(Cart):
    action_size = 3
class Paid(Cart):
    def step(self, state, action): return super().step(state, action).replace(reward=jnp.ones(2))
    def reset(self, rng): return super().reset(rng).replace(reward=jnp.zeros(2))
class Failing(Cart):
    def step(self, state, action): return {}["gravity"]
class Contacts(Cart):
    def step(self, state, action):
        state = super().step(state, action)
        return state.replace(reward=state.data.contact.dist.sum())
class Pushed(Cart):
    def step(self, state, action):
        return super().step(state.replace(data=state.data.replace(xfrc_applied=jnp.ones((2, 6)))), action)
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "wrong_tasks.py").write_text(MODULE)
    (folder / "broken_tasks.py").write_text("import nothing_here\n")
    for package, code in (("lacking", "import nothing_here\n"), ("misspelt", "\nnothing_here\n")):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(code)
        (folder / package / "tasks.py").write_text("")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def test_tasks_are_playgrounds_dm_control_suite():
    from mujoco_playground import dm_control_suite

    assert tuple(sorted(dm_control_suite.ALL_ENVS)) == TASKS and len(TASKS) == 25


def test_an_own_task_has_a_colon_and_no_other_has():
    assert is_own_task("own_task:make_env") and not any(map(is_own_task, TASKS))


WRONG_NAMES = {
    "Go1JoystickFlatTerrain": ["BallInCup", "module:factory", "git"],
    "ballincup": ["BallInCup", "WalkerWalk"],
    "": ["BallInCup"],
    "no_such_module:make_env": ["no module no_such_module", "PYTHONPATH"],
    "own_task.deeper:make_env": ["no module own_task.deeper", "PYTHONPATH"],
    "own_task:": ["module:factory"],
    ":make_env": ["module:factory"],
    "own_task.py:make_env": ["no module own_task.py"],
    "tasks/own_task:make_env": ["module:factory"],
    "own_task:make_env:more": ["module:factory"],
}


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_wrong_name_is_refused_alike_by_make_and_config_in_one_line_that_says_what_is_allowed(name):
    messages = set()
    for refuse in (check_found, envs.make, make_config):
        with pytest.raises(ValueError) as refused:
            refuse(name)
        messages.add(str(refused.value))
    (message,) = messages
    assert message.startswith(f"--task {name} is not allowed: ") and "\n" not in message
    assert all(word in message for word in WRONG_NAMES[name])


def test_a_stored_config_is_read_where_the_module_of_its_task_is_not():
    stored = to_json(make_config("own_task:make_env", preset="smoke", backend="native"))
    assert from_json(stored | {"task": "another_machines:make_env"}).task == "another_machines:make_env"


def test_names_are_checked_without_jax_or_the_module_itself():
    code = (
        "import sys; from dipod_jax.envs.tasks import check_found; check_found('own_task:make_env');"
        "print([m for m in ('jax', 'mujoco', 'own_task') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


WRONG_TASKS = {
    "own_task:make_task": ["make_task is not there", "returns an MjxEnv"],
    "wrong_tasks:number": ["number is not a function", "returns an MjxEnv"],
    "wrong_tasks:list_of_tasks": ["returned list", "mujoco_playground.MjxEnv"],
    "wrong_tasks:Dict": ["observation must be one vector", "concatenate"],
    "wrong_tasks:Matrix": ["observation must be one vector"],
    "wrong_tasks:Growing": ["state.info['steps'] is missing after reset and float32[] after step"],
    "wrong_tasks:Silent": ["one float32 or more", "float32[0]"],
    "wrong_tasks:Counted": ["one float32 or more", "int32[2]"],
    "wrong_tasks:Idle": ["its action_size is 0"],
    "wrong_tasks:Crew": ["fails: ValueError", "float32[3]"],
    "wrong_tasks:Paid": ["its reward must be one number", "[2]"],
    "wrong_tasks:Failing": ["fails: KeyError: 'gravity'", "wrong_tasks.py, line 30"],
    "broken_tasks:Cart": ["fails: ModuleNotFoundError: No module named 'nothing_here'", "broken_tasks.py, line 1"],
    "lacking.tasks:Cart": ["fails: ModuleNotFoundError: No module named 'nothing_here'", "lacking/__init__.py, line 1"],
    "misspelt.tasks:Cart": ["fails: NameError: name 'nothing_here' is not defined", "misspelt/__init__.py, line 2"],
    "wrong_tasks:Contacts": ["Contacts cannot run on native physics", "data.contact", "--backend mjx"],
    "wrong_tasks:Pushed": ["Pushed cannot run on native physics", "data.xfrc_applied", "--backend mjx"],
}


@pytest.mark.parametrize("name", WRONG_TASKS)
def test_a_task_that_cannot_be_run_is_refused_in_one_line_with_the_way_out(name):
    with pytest.raises(TaskError) as refused:
        envs.make(name)
    message = str(refused.value)
    assert "\n" not in message and all(words in message for words in WRONG_TASKS[name]), message


def test_a_command_ends_in_that_line_before_it_writes_anything(tmp_path, capsys):
    from dipod_jax.commands import train

    task = ["--backend", "native", "--task", "wrong_tasks:Idle"]
    assert "its action_size is 0" in errors_of(
        train, ["--preset", "smoke", *task, "--out", str(tmp_path / "run")], capsys
    )
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_asks_for_one_physics_is_not_run_on_another():
    with pytest.raises(
        ValueError, match=r"for_one_physics built its model for jax and not for warp: .* parameter impl"
    ):
        envs.make("wrong_tasks:for_one_physics", "warp")
    assert envs.make("wrong_tasks:for_one_physics", "native").action_size == 1  # which steps its MjModel
    assert envs.make("wrong_tasks:with_overrides", "warp").observation_size == 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["native", "mjx"])
def test_a_cart_of_ones_own_moves_as_mujoco_moves_it_and_starts_again(backend):
    env = envs.make("own_task:make_env", backend, episode_length=LIMIT)
    actions = jnp.linspace(-1.0, 1.0, STEPS * ENVS).reshape(STEPS, ENVS, 1)

    def run(key):
        state = env.reset(key, ENVS, num_starts=1)
        return state, *jax.lax.scan(env.step, state, actions)

    first, last, result = jax.jit(run).lower(jax.random.key(0)).compile(QUICK)(jax.random.key(0))
    model = Cart().mj_model
    for i in range(ENVS):
        data = mujoco.MjData(model)
        data.qpos[:] = first.obs[i, 0]
        for t in range(STEPS):
            if t == LIMIT:
                mujoco.mj_resetData(model, data)
                data.qpos[:] = first.starts.obs[0, 0]
            data.ctrl[:] = actions[t, i]
            mujoco.mj_step(model, data, nstep=2)
            assert_allclose(result.next_obs[t, i], [data.qpos[0], data.qvel[0]], atol=2e-6)
            assert_allclose(result.reward[t, i], 1 - abs(data.qpos[0]), atol=2e-6)
    assert_array_equal(np.flatnonzero(result.truncated[:, 0]), [LIMIT - 1])
    assert_array_equal(last.length, [STEPS - LIMIT] * ENVS)
