"""Reading run folders of earlier versions: their options under the current names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dipod_jax.objectives import OBJECTIVES
from dipod_jax.serialisation import VERSION, WAY_OUT


def from_version_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 had an objective's name and a section of options for each objective (`fpo`, `ppo`) and no
    regularisers, and one kind of options for all policies.

    Raises:
        ValueError: a section is missing.
    """
    options = dict(values)
    try:
        name, sections = options.pop("objective"), {n: dict(options.pop(n)) for n in ("fpo", "ppo")}
        policy = dict(options.pop("policy"))
        entropy = sections["ppo"].pop("entropy_cost")
        learning = {"reference_decay": 1.0, "kl_target": None, **options.pop("learning")}
        rollout = {"observation_clip": None, **options.pop("rollout")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"config.json lacks options of version 1 ({error}): {WAY_OUT}") from None
    family = OBJECTIVES.choose(name).policy if isinstance(name, str) else ""
    if family == "gaussian":
        policy = {n: policy[n] for n in ("hidden_sizes", "activation", "noise_correlation") if n in policy}
    else:
        policy = {"draws_at_once": None, **policy}
    entropy = entropy if family == "gaussian" else 0.0
    return {
        **options,
        "version": VERSION,
        "keep_checkpoints": 2,
        "strict_resume": False,
        "objective": {"name": name, **sections["fpo" if name == "fpo" else "ppo"]},
        "policy": {"name": family, **policy},
        "learning": learning,
        "rollout": rollout,
        "regularisers": {"entropy": {"name": "entropy", "weight": entropy}} if entropy else {},
    }
