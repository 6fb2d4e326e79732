"""Python functions as targets of XLA's foreign function interface, and that programs with them are compiled once."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from dipod_jax.envs import ffi


def add_and_sum(reads, writes):
    writes[0][...] = reads[0] + reads[1]
    writes[1][...] = reads[0].sum(-1, keepdims=True)


ffi.register("test_add_and_sum", add_and_sum)
SHAPES = [jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)]


def call(a, b):
    return jax.ffi.ffi_call("test_add_and_sum", SHAPES, vmap_method="broadcast_all")(a, b)


def test_arguments_are_read_and_results_written_in_one_call_for_a_batch():
    a, b = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    added, summed = jax.jit(jax.vmap(jax.vmap(call)))(a, b)
    assert_allclose(added, a + b, rtol=1e-6)
    assert_allclose(summed, a.sum(-1, keepdims=True), rtol=1e-5)


def test_a_batch_of_nothing_is_nothing():
    added, summed = jax.jit(jax.vmap(call))(jnp.zeros((0, 3)), jnp.zeros((0, 3)))
    assert added.shape == (0, 3) and summed.shape == (0, 1)


def test_an_exception_is_the_programs_error_and_the_next_call_works():
    def refuse(reads, writes):
        if reads[0][0] > 1:
            raise ValueError(f"{reads[0][0]:g} is too much")
        writes[0][...] = reads[0]

    name = ffi.register("test_refuse", refuse)
    program = jax.jit(jax.ffi.ffi_call(name, jax.ShapeDtypeStruct((1,), jnp.float32)))
    with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: 7 is too much"):
        jax.block_until_ready(program(jnp.array([7.0])))
    assert program(jnp.array([0.5]))[0] == 0.5


def test_other_types_than_float32_are_refused():
    with pytest.raises(jax.errors.JaxRuntimeError, match="is not float32"):
        jax.block_until_ready(jax.jit(call)(jnp.zeros(3, jnp.int32), jnp.zeros(3, jnp.int32)))


def test_a_program_with_native_physics_is_compiled_once_and_then_comes_from_the_cache(tmp_path):
    code = (
        "import jax, jax.numpy as jnp\n"
        "from dipod_jax import envs\n"
        "env = envs.make('PendulumSwingup', 'native', episode_length=10)\n"
        "state = jax.jit(lambda key: env.reset(key, 4))(jax.random.key(0))\n"
        "print(float(jax.jit(env.step)(state, jnp.ones((4, 1)))[0].obs.sum()))\n"
    )
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    files, printed = [], []
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        printed.append(run.stdout)
        files.append({p.name for p in tmp_path.iterdir() if p.name.endswith("-cache")})
    assert files[0] and files[1] == files[0]
    assert printed[0] == printed[1]
