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
import mujoco
print(os.environ["MUJOCO_GL"])
"""


def test_without_osmesa_and_a_home_everything_is_prepared_and_one_line_says_what_is_missing():
    without = {"JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment |= {"HOME": "/proc/nobody", "MUJOCO_GL": "osmesa"}
    done = subprocess.run([sys.executable, "-c", PREPARE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "osmesa\n"
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("warning: every start compiles anew")
