"""A policy without the library: `act(obs, noise)` as StableHLO and ONNX, with a contract that says how to call it."""

from typing import TYPE_CHECKING, Any

from dipod_jax.export.errors import ExportError

if TYPE_CHECKING:
    from dipod_jax.export.policy import export_policy

__all__ = ["ExportError", "export_policy"]


def __getattr__(name: str) -> Any:
    """`export_policy`, whose import takes jax with it."""
    if name == "export_policy":
        from dipod_jax.export.policy import export_policy

        return export_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
