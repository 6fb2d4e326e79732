"""Flow-matching policies trained by policy gradients on a bound that stays tight."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import dipod_jax` and `--help` stay quick."""
    if name == "load_policy":
        from dipod_jax.training.loading import load_policy

        return load_policy
    raise AttributeError(f"module 'dipod_jax' has no attribute {name!r}")
