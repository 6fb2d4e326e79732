"""Does an exported policy give the actions it should, and how fast? `python verify.py FOLDER`.

Reads `policy.json` and `examples.npz`, runs each file in its own runtime, and prints one JSON object. It imports
nothing of dipod-jax, so it shows as well how an exported policy is called.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

CALLS = 500
Act = Callable[[np.ndarray, np.ndarray], np.ndarray]


def load_stablehlo(path: Path) -> Act:
    """`act` of `policy.stablehlo`; needs jax alone."""
    import jax
    from jax import export

    act = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda obs, noise: np.asarray(act(obs, noise))


def load_onnx(path: Path) -> Act:
    """`act` of `policy.onnx` on one thread; needs onnxruntime alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda obs, noise: np.asarray(session.run(None, {"obs": obs, "noise": noise})[0])


LOADERS = {"stablehlo": load_stablehlo, "onnx": load_onnx}


def verify(folder: Path) -> dict[str, dict[str, float]]:
    """For each file: the largest |difference| of an action from the library's, and the median time of one call.

    Returns:
        format -> `max_difference`, over all examples at once and the first three one by one; `microseconds_per_act`,
        of a batch of one.
    """
    contract = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    with np.load(folder / contract["examples"]["file"]) as file:
        obs, noise, action = (file[name] for name in ("obs", "noise", "action"))
    report = {}
    for name, file in contract["files"].items():
        act = LOADERS[name](folder / file)
        errors = [np.abs(act(obs, noise) - action).max()]
        errors += [np.abs(act(obs[i : i + 1], noise[i : i + 1]) - action[i]).max() for i in range(3)]
        report[name] = {"max_difference": float(max(errors)), "microseconds_per_act": _microseconds(act, obs, noise)}
    return report


def _microseconds(act: Act, obs: np.ndarray, noise: np.ndarray) -> float:
    times = []
    for i in range(CALLS):
        row = slice(i % len(obs), i % len(obs) + 1)
        before = time.perf_counter()
        act(obs[row], noise[row])
        times.append(time.perf_counter() - before)
    return 1e6 * float(np.median(times))


if __name__ == "__main__":
    print(json.dumps(verify(Path(sys.argv[1]))))
