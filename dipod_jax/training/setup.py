"""Preparing JAX for a run, before anything touches a device."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dipod_jax.config import Config
from dipod_jax.machine import available_cores
from dipod_jax.runs.errors import MachineError, reason_of

# What JAX's environment variables may say otherwise, and what a run, its numbers or its messages depend on.
PINNED: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_default_matmul_precision": "highest",  # elsewhere than on a CPU, XLA rounds factors to 10 or 8 bits
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_transfer_guard": "allow",
}


def prepare_jax(config: Config) -> None:
    """Set up devices and the persistent compile cache, and import MuJoCo.

    Whatever JAX's environment variables say, a run is in single precision, compiled, draws what its seed says and goes
    on over numbers that are not finite. A CPU becomes one device per core (see `sharding.Layout`), or as many as
    XLA_FLAGS asks for. The cache is that of `keep_compiled_programs`. Call before JAX is used; a device count that is
    already fixed stays.

    Raises:
        MachineError: JAX finds no device of the kind that JAX_PLATFORMS names.
    """
    import_mujoco()
    import jax

    if config.backend == "native":
        jax.config.update("jax_platforms", "cpu")
    asked_for = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.jax_num_cpu_devices in (-1, 0) and not asked_for:
        with contextlib.suppress(RuntimeError):  # the caller has used JAX already; its devices are what there is
            jax.config.update("jax_num_cpu_devices", available_cores())
    prepare_devices(check=not config.distributed)  # whose processes join before they ask for devices


def prepare_devices(*, check: bool = True) -> None:
    """Pin the options of JAX that change numbers, keep what is compiled, and check that there is a device.

    A command without physics needs no more than this.

    Args:
        check: whether to ask for devices now; the processes of one run must have joined before.

    Raises:
        MachineError: JAX finds no device of the kind that JAX_PLATFORMS names, or XLA_FLAGS an unknown flag.
    """
    import jax

    for name, value in PINNED.items():
        jax.config.update(name, value)
    keep_compiled_programs()
    if check:
        check_devices()


def keep_compiled_programs() -> None:
    """Keep what is compiled in JAX_COMPILATION_CACHE_DIR, or in ~/.cache/dipod-jax where that is not set."""
    import jax

    asked_for: str | None = jax.config.jax_compilation_cache_dir
    if asked_for is not None and "://" in asked_for:  # a bucket, which JAX knows how to reach
        cache = asked_for
    else:
        try:
            cache = str(_writable(_default_cache() if not asked_for else Path(asked_for)))
        except (OSError, RuntimeError) as error:  # no such user, a folder that nobody can write into
            print(f"warning: every start compiles anew, as nothing can be kept: {error}", file=sys.stderr)
            cache = None
    if cache != asked_for:
        jax.config.update("jax_compilation_cache_dir", cache)
    # A run compiles many small programs besides the large ones; together they are seconds of every start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def check_devices() -> None:
    """Raise MachineError where JAX has no device, or XLA_FLAGS an unknown flag: before a run writes anything."""
    import jax

    if flags := os.environ.get("XLA_FLAGS"):
        _check_flags(flags)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter, without words: cuda is named, no GPU is there
        why = f" ({reason_of(error)})" if str(error) else ""
        raise MachineError(f"JAX finds no device to train on{why}; see JAX_PLATFORMS") from error


@functools.cache
def _check_flags(flags: str) -> None:
    """Raise MachineError for a flag that XLA does not know: it ends the process at one, so another one is asked."""
    ask = "from jaxlib import _jax; _jax.CompileOptions()"
    asked = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    if unknown := re.search(r"Unknown flags? in XLA_FLAGS: *([^\n]*)", asked.stderr):
        raise MachineError(f"XLA_FLAGS has a flag that this version of XLA does not know: {unknown[1]}; take it out")


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dipod-jax"


def _writable(folder: Path) -> Path:
    """The folder, made and written into once."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def import_mujoco() -> None:
    """Import MuJoCo without the OpenGL that MUJOCO_GL names: its import fails where that is not installed.

    `viz.rendering` makes its own context, for a film, and says what is missing.
    """
    chosen = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        importlib.import_module("mujoco")
    finally:
        if chosen is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = chosen
