"""Flow-matching policies trained by policy gradients on a bound that stays tight."""

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipod_jax import envs
    from dipod_jax.api import evaluate, make_config, train
    from dipod_jax.training.loading import load_policy

STARTED = time.perf_counter()
"""`time.perf_counter()` when this process imported the package: a command's clock counts from here what it imports."""

__version__ = "0.1.0"
__all__ = ["envs", "evaluate", "load_policy", "make_config", "train"]

_HOMES = {
    "evaluate": "dipod_jax.api",
    "load_policy": "dipod_jax.training.loading",
    "make_config": "dipod_jax.api",
    "train": "dipod_jax.api",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import dipod_jax` stays quick."""
    if name == "envs":
        return import_module("dipod_jax.envs")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dipod_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What `dir(dipod_jax)` and a notebook's completion show."""
    return sorted([*globals(), *__all__])
