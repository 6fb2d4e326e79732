"""What a run takes in memory, estimated from its options alone, and whether there is as much. Imports nothing slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dipod_jax.checks import require
from dipod_jax.machine import machine_bytes

if TYPE_CHECKING:
    from dipod_jax.config import Config

# A task is not loaded for an estimate: these are of a small one, so that nothing is refused that could be run.
OBSERVATION, ACTION, SIMULATION_BYTES = 8, 2, 1024
TOKENS = 8
NUMBER = 4  # bytes of a float32
ALWAYS_FITS = 2**32  # what no accelerator is asked about
# Options of which each step has a key of its own.
KEYS = ("learning.num-iterations", "learning.inner-updates", "learning.distillation-steps", "pretraining.steps")
COUNTED_BYTES = 2**100  # a float holds no more than 2^1024

Sizes = Mapping[str, Any]
"""Numbers, and tuples of layer widths, by the name of their option."""
Parts = dict[str, int]
"""Bytes by what takes them."""


def check_training(config: Config) -> None:
    """Refuse a run that does not fit.

    Raises:
        ValueError: one line: the option that asks for most, the estimate, and what the machine has.
    """
    policy, learning, rollout = config.policy, config.learning, config.rollout
    sizes = {
        "seed-list" if config.seed_list is not None else "seeds": len(config.seed_list or ()) or config.seeds,
        "rollout.num-envs": rollout.num_envs,
        "rollout.num-steps": rollout.num_steps,
        "learning.minibatch-size": learning.minibatch_size,
        "learning.num-epochs": learning.num_epochs,
        "evaluation.num-episodes": config.evaluation.num_episodes,
        "evaluation.num-episodes-during": config.evaluation.num_episodes_during,
        "distillation.num-steps": config.distillation.num_steps if config.distillation.enabled else 1,
        "policy.hidden-sizes": policy.hidden_sizes,
        "policy.num-steps": getattr(policy, "num_steps", 1),
        "policy.num-draws": getattr(policy, "num_draws", 1),
        "policy.time-embedding-size": getattr(policy, "time_embedding_size", 1),
        "critic.hidden-sizes": config.critic.hidden_sizes,
    }
    copies = 1 + 2 + 1 + (2 if policy.has_field else 0) + config.needs_reference  # itself, Adam's moments, a gradient
    group = getattr(policy, "draws_at_once", None)
    check_fits(sizes, lambda s: _training(s, copies, group), config.backend != "native")


def _training(s: Sizes, copies: int, draws_at_once: int | None) -> Parts:
    """Bytes of a training run; seeds are on the devices together, but learn one after the other on a CPU's."""
    seeds = s.get("seeds", 0) or s["seed-list"]
    inputs = OBSERVATION + ACTION + s["policy.time-embedding-size"]
    policy, critic = s["policy.hidden-sizes"], s["critic.hidden-sizes"]
    parameters = _network(inputs, policy, ACTION) + _network(OBSERVATION, critic, 1)
    batch, draws = s["rollout.num-envs"] * s["rollout.num-steps"], s["policy.num-draws"]
    transition = 2 * OBSERVATION + 2 * ACTION + 5 + 2 * draws * (ACTION + 1)
    scored = min(draws, draws_at_once or draws) * (inputs + sum(policy)) + sum(critic)
    chunk = min(s["evaluation.num-episodes"], s["evaluation.num-episodes-during"])
    keys = s["learning.num-epochs"] + s["distillation.num-steps"] + s["policy.num-steps"]
    return {
        "parameters": NUMBER * seeds * parameters,
        "optimizer": NUMBER * seeds * parameters * (copies - 1),
        "rollout": NUMBER * seeds * batch * transition,
        "minibatch": 2 * NUMBER * s["learning.minibatch-size"] * scored,
        "simulations": SIMULATION_BYTES * seeds * (s["rollout.num-envs"] + 2 * chunk),
        "evaluation": NUMBER * (2 * seeds * s["evaluation.num-episodes"] + 2 * chunk * max(policy)),
        "random keys": 2 * NUMBER * keys,
    }


def check_evaluation(episodes: int, config: Config) -> None:
    """Refuse an evaluation whose episodes, all at once, do not fit; raises as `check_training`."""
    width = max(config.policy.hidden_sizes)

    def parts(s: Sizes) -> Parts:
        both = 2 * s["episodes"]  # with random noise and with none
        return {"simulations": SIMULATION_BYTES * both, "policy": NUMBER * both * width}

    check_fits({"episodes": episodes}, parts, config.backend != "native")


def check_post_training(config: Any) -> None:
    """Refuse a `LanguageConfig` that does not fit; raises as `check_training`."""
    network, learning, policy = config.network, config.learning, config.policy
    sizes = {
        "seeds": config.seeds,
        "network.width": network.width,
        "network.num-layers": network.num_layers,
        "learning.num-prompts": learning.num_prompts,
        "learning.samples-per-prompt": learning.samples_per_prompt,
        "learning.num-iterations": learning.num_iterations,
        "policy.num-draws": policy.num_draws,
        "policy.bound-draws": policy.bound_draws,
        "learning.inner-updates": learning.inner_updates,
        "learning.distillation-steps": learning.distillation_steps if learning.distillation_interval else 1,
        "pretraining.batch-size": config.pretraining.batch_size,
        "pretraining.steps": config.pretraining.steps,
        "measure.drift-prompts": config.measure.drift_prompts if config.measure.drift_interval else 1,
    }

    def parts(s: Sizes) -> Parts:
        group, draws = s["learning.samples-per-prompt"], s["policy.num-draws"] + s["policy.bound-draws"]
        activations = NUMBER * TOKENS * s["network.width"] * s["network.num-layers"] * 8
        parameters = NUMBER * 12 * s["network.width"] ** 2 * s["network.num-layers"]
        return {
            "parameters": s["seeds"] * parameters,
            "optimizer": s["seeds"] * parameters * 3,
            "samples": activations * draws * s["learning.num-prompts"] * group,
            "pretraining": activations * s["pretraining.batch-size"],
            "drift": NUMBER * TOKENS * s["measure.drift-prompts"] * group,
            "random keys": 2 * NUMBER * sum(s[name] for name in KEYS),
        }

    check_fits(sizes, parts, on_accelerator=True)


def check_fits(sizes: Sizes, parts: Callable[[Sizes], Parts], on_accelerator: bool = False) -> None:
    """Refuse sizes whose parts do not fit into memory, naming the one without which they would take least.

    Args:
        sizes: by the name of their option.
        parts: from sizes to bytes.
        on_accelerator: where there is one, its memory counts and not the machine's.

    Raises:
        ValueError: one line.
    """
    estimate = parts(sizes)
    total = sum(estimate.values())
    if total <= ALWAYS_FITS and (on_accelerator or total <= machine_bytes()):
        return
    has, where = (on_accelerator and accelerator_bytes()) or (machine_bytes(), "this machine")
    if total <= has:
        return
    least = {name: (1,) if isinstance(size, tuple) else 1 for name, size in sizes.items()}
    without = {name: sum(parts({**sizes, name: least[name]}).values()) for name in sizes}
    name = min(without, key=lambda n: without[n])
    value = " ".join(map(str, sizes[name])) if isinstance(sizes[name], tuple) else sizes[name]
    largest = ", ".join(f"{part} {_gib(n)}" for part, n in sorted(estimate.items(), key=lambda i: -i[1])[:3])
    what = f"fewer or smaller: it would take at least {_gib(total)} ({largest}), and {where} has {_gib(has)}"
    require(False, name, value, what)


def accelerator_bytes() -> tuple[int, str] | None:
    """Memory of the accelerators that jax sees, and what they are called; None where there are none, or none tells."""
    from dipod_jax.presets import accelerator

    if accelerator() is None:
        return None
    import jax

    found = [stats["bytes_limit"] for device in jax.devices() if (stats := device.memory_stats()) is not None]
    kind = jax.devices()[0].device_kind
    return (sum(found), kind if len(found) == 1 else f"{len(found)} x {kind}") if found else None


def _network(inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    """Parameters of an MLP."""
    return sum((wide + 1) * next_wide for wide, next_wide in pairwise((inputs, *hidden, outputs)))


def _gib(number: int) -> str:
    return f"{min(number, COUNTED_BYTES) / 2**30:.3g} GiB"
