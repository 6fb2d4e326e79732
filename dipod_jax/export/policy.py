"""A run's policy as files that need nothing of this library."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from dipod_jax.envs.own import failing_in_one_line
from dipod_jax.envs.playground import load_task
from dipod_jax.export.errors import FORMATS, check_formats
from dipod_jax.export.graph import to_onnx
from dipod_jax.training.evaluation import make_act
from dipod_jax.training.loading import TrainedPolicy, restore_policy

FILES = {"stablehlo": "policy.stablehlo", "onnx": "policy.onnx"}
CONTRACT, EXAMPLES = "policy.json", "examples.npz"
PLATFORMS = ("cpu", "cuda", "tpu")
NUM_EXAMPLES = 1000
TOLERANCE = 1e-5


def export_policy(
    run_dir: str | Path,
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    which: str = "latest",
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Write `action = act(obs, noise)` of a trained policy, with its observation statistics, sampler and tanh inside.

    The folder holds `policy.stablehlo` (`jax.export`, for CPU, CUDA and TPU), `policy.onnx`, `policy.json`, the
    contract of inputs and output, and `examples.npz`: 1,000 observations and noises with the actions that the library
    itself gives for them. Both take a batch of any length.

    Args:
        run_dir: a run folder. The task must be installed: the contract names its actuators and its control step.
        out: the folder, made where it is missing; RUN_DIR/export where None.
        seed, which: as `restore_policy`.
        formats: one or more of stablehlo, onnx.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown format, or one whose packages are missing; or as `restore_policy`.
        RunFolderError, CheckpointError: as `restore_policy`.
        ExportError: a policy with an operation that has no ONNX form here.
    """
    check_formats(formats)
    trained = restore_policy(run_dir, seed, which)
    act = make_act(trained.policy, trained.params, trained.statistics)
    inputs = {"obs": trained.statistics.mean.shape, "noise": trained.policy.noise_shape}
    writers = {"stablehlo": _stablehlo, "onnx": _onnx}
    artifacts = {name: writers[name](act, inputs) for name in formats}
    seed = trained.config.all_seeds[0] if seed is None else seed
    contract = {**_contract(trained), "seed": seed, "which": which, "files": {name: FILES[name] for name in formats}}
    folder = Path(run_dir) / "export" if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in artifacts.items():
        (folder / FILES[name]).write_bytes(content)
    np.savez(folder / EXAMPLES, allow_pickle=False, **_examples(trained, act))
    (folder / CONTRACT).write_text(json.dumps(contract, indent=1) + "\n", encoding="utf-8")
    return folder


Act = Callable[[jax.Array, jax.Array], jax.Array]


def _stablehlo(act: Act, inputs: dict[str, tuple[int, ...]]) -> bytes:
    (batch,) = export.symbolic_shape("batch")
    shapes = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in inputs.values()]
    return bytes(export.export(jax.jit(act), platforms=PLATFORMS)(*shapes).serialize())


def _onnx(act: Act, inputs: dict[str, tuple[int, ...]]) -> bytes:
    return to_onnx(act, inputs, "action", "action = act(obs, noise); see policy.json").SerializeToString()


def _examples(trained: TrainedPolicy, act: Act) -> dict[str, np.ndarray]:
    """Observations as often seen in training, noise, and the actions that the library makes of them."""
    rng, statistics = np.random.default_rng(0), trained.statistics
    normal = lambda *shape: rng.standard_normal((NUM_EXAMPLES, *shape)).astype(np.float32)
    obs = np.asarray(statistics.mean + statistics.std * normal(*statistics.mean.shape))
    noise = normal(*trained.policy.noise_shape)
    return {"obs": obs, "noise": noise, "action": np.asarray(jax.jit(act)(obs, noise))}


def _contract(trained: TrainedPolicy) -> dict[str, Any]:
    """What a caller must know, in JSON."""
    config, policy = trained.config, trained.policy
    with failing_in_one_line(config.task):
        task = load_task(config.task, "jax")
    names = [task.mj_model.actuator(i).name for i in range(task.mj_model.nu)]
    tensor = lambda name, *shape: {"name": name, "shape": ["batch", *shape], "dtype": "float32"}
    return {
        "format": 1,
        "task": config.task,
        "objective": config.objective.name,
        "policy": config.policy.name,
        "inputs": [
            tensor("obs", *trained.statistics.mean.shape)
            | {"range": None, "meaning": "observations as the task gives them; normalisation is inside"},
            tensor("noise", *policy.noise_shape)
            | {
                "range": None,
                "law": "standard normal, independent in every component, row and control step",
                "correlation_between_steps_in_training": config.policy.noise_correlation,
            },
        ],
        "outputs": [
            tensor("action", policy.action_size)
            | {"range": [-1.0, 1.0], "actuators": names, "meaning": "what the task's step takes; tanh is inside"}
        ],
        "control_step_s": task.dt,
        "deterministic": "action is a function of obs and noise alone: nothing is drawn inside and nothing is "
        "remembered. Fresh noise at every step samples the policy; noise 0 gives one action for each observation.",
        "examples": {"file": EXAMPLES, "count": NUM_EXAMPLES, "tolerance": TOLERANCE},
        "versions": {name: metadata.version(name) for name in ("dipod-jax", "jax", "numpy")},
    }
