"""Loading a Playground task, quietly and with its physics implementation named."""

from __future__ import annotations

from typing import Any


def load_task(task: str, impl: str) -> Any:
    """Return Playground's environment `task` with `impl` "jax" or "warp".

    Importing Playground takes seconds and starts Warp, which prints a banner; both happen here, at first use.
    """
    import warp

    warp.config.quiet = True
    from mujoco_playground import dm_control_suite

    return dm_control_suite.load(task, config_overrides={"impl": impl})
