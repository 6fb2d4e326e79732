"""A run starts where the home folder and OpenGL are missing."""

import os
import subprocess
import sys

import jax
import pytest
from probe_tasks import TargetTask

from dipod_jax.runs.errors import MachineError
from dipod_jax.training import setup

PREPARE = """
import os
from pathlib import Path
from dipod_jax.presets import smoke
from dipod_jax.training.setup import prepare_jax
prepare_jax(smoke("PendulumSwingup", "fpo"))
import mujoco, jax
print(os.environ["MUJOCO_GL"], jax.numpy.zeros(()).dtype, jax.device_count())
print(jax.make_jaxpr(lambda x: x @ x)(jax.numpy.eye(2)).eqns[0].params["precision"])
print(jax.random.key(0).dtype, jax.random.bits(jax.random.key(1), (2,)), jax.jit(lambda x: x / x)(0.0))
"""


def test_without_osmesa_and_a_home_everything_is_prepared_and_one_line_says_what_is_missing():
    """In single precision, compiled, with the usual draws and over nan, whatever the environment asks for; on as many
    devices as it asks for."""
    without = {"JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment |= {"HOME": "/proc/nobody", "MUJOCO_GL": "osmesa", "JAX_ENABLE_X64": "1"}
    environment |= {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"}
    environment |= {"JAX_DISABLE_JIT": "1", "JAX_DEBUG_NANS": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    environment |= {"JAX_THREEFRY_PARTITIONABLE": "0", "JAX_RANDOM_SEED_OFFSET": "7", "JAX_TRANSFER_GUARD": "disallow"}
    environment |= {"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    environment |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PREPARE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bits = jax.random.bits(jax.random.key(1), (2,))
    assert done.stdout == f"osmesa float32 3\n(Precision.HIGHEST, Precision.HIGHEST)\nkey<fry> {bits} nan\n"
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("warning: every start compiles anew")


def test_a_flag_that_xla_does_not_know_is_one_line_and_a_known_one_is_none(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2 --xla_nonsense=1")
    with pytest.raises(MachineError, match=r"^XLA_FLAGS has a flag .* not know: --xla_nonsense=1; take it out$"):
        setup.check_devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    setup.check_devices()


def test_a_cache_that_cannot_be_written_is_one_line_and_none(monkeypatch, capsys):
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_compilation_cache_dir", "/proc/nowhere")
        setup.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        for name, value in zip(
            ("compilation_cache_dir", "persistent_cache_min_compile_time_secs"), before, strict=True
        ):
            jax.config.update(f"jax_{name}", value)
    err = capsys.readouterr().err
    assert err.startswith("warning: every start compiles anew") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            RuntimeError("Unable to initialize backend 'tpu':\n\nno plugin\n"),
            "JAX finds no device to train on (Unable to initialize backend 'tpu': no plugin); see JAX_PLATFORMS",
        ),
        (AssertionError(), "JAX finds no device to train on; see JAX_PLATFORMS"),  # cuda without a GPU
    ],
)
def test_a_platform_without_a_device_is_one_line_with_the_words_of_jax_where_it_has_any(monkeypatch, said, line):
    def refuse():
        raise said

    monkeypatch.setattr(jax, "devices", refuse)
    with pytest.raises(MachineError) as refused:
        setup.check_devices()
    assert str(refused.value) == line


def test_an_episode_is_as_long_as_its_clock_can_count_and_staggered_without_overflow():
    from dipod_jax.config import RolloutConfig
    from dipod_jax.envs import BatchedEnv

    with pytest.raises(ValueError, match=r"--rollout.episode-length 2147483647 is not allowed"):
        RolloutConfig(episode_length=2**31 - 1)
    env = BatchedEnv(TargetTask(), 2**31 - 2)
    clock = env.reset(jax.random.key(0), 16, stagger=True).clock
    assert clock.tolist() == [i * (2**31 - 2) // 16 for i in range(16)]
