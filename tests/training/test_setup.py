"""A run starts where the home folder and OpenGL are missing."""

import os
import subprocess
import sys

PREPARE = """
import os
from pathlib import Path
from dipod_jax.presets import smoke
from dipod_jax.training.setup import prepare_jax
prepare_jax(smoke("PendulumSwingup", "fpo"))
import mujoco, jax
print(os.environ["MUJOCO_GL"], jax.numpy.zeros(()).dtype, jax.device_count())
"""


def test_without_osmesa_and_a_home_everything_is_prepared_and_one_line_says_what_is_missing():
    """In single precision, whatever the environment asks for; on as many devices as it asks for."""
    without = {"JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment |= {"HOME": "/proc/nobody", "MUJOCO_GL": "osmesa", "JAX_ENABLE_X64": "1"}
    environment |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PREPARE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "osmesa float32 3\n", done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("warning: every start compiles anew")
