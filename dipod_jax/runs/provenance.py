"""Where a run's numbers come from: versions, commit, machine, command line."""

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTIONS = (
    "dipod-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "mujoco",
    "mujoco-mjx",
    "playground",
    "orbax-checkpoint",
    "numpy",
)


def provenance() -> dict[str, Any]:
    """Everything a reader needs to run the same thing again, as a JSON-able dict.

    Keys: `versions` (distribution -> version, null where not installed), `git` (`{"commit", "dirty"}`, null outside
    a checkout), `machine` (platform, CPU count, jax backend, device kind and count), `command`.
    Imports jax and starts its backend.
    """
    return {"versions": versions(), "git": git_commit(), "machine": machine(), "command": command_line()}


def versions() -> dict[str, str | None]:
    """Version of Python and of every distribution a result can depend on; null where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_commit(source: Path = Path(__file__)) -> dict[str, Any] | None:
    """Commit of the checkout that holds `source` and whether tracked files differ from it; None outside a checkout.

    A package installed into an environment that lies inside somebody else's repository is outside a checkout: the
    source file must itself be tracked.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source.resolve().parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, Any]:
    """Platform, usable CPUs, and the devices that jax computes on."""
    import jax

    devices = jax.devices()
    return {
        "platform": platform.platform(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "jax_backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
    }


def command_line() -> str:
    """The command that started this process, as one would type it (`dipod train ...`)."""
    if Path(sys.argv[0]).name == "dipod":
        return shlex.join(["dipod", *sys.argv[1:]])
    main_spec = getattr(sys.modules["__main__"], "__spec__", None)
    if main_spec is None or main_spec.name == "__main__":
        return shlex.join(["python", *sys.argv])
    return shlex.join(["python", "-m", main_spec.name.removesuffix(".__main__"), *sys.argv[1:]])
