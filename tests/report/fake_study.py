"""Run folders as training leaves them, written by hand: a study with known numbers, without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

STEPS = np.array([0, 50_000, 100_000, 150_000, 200_000])
ORIGIN = {
    "created": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.11.9", "jax": "0.10.2"},
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "machine": {"platform": "Linux", "cpu_count": 2, "jax_backend": "cpu", "device_kind": "cpu", "device_count": 1},
}


def write_run(
    path: Path,
    *,
    task: str = "BallInCup",
    objective: str = "fpo",
    beta: float | str = 0.0,
    finals: Sequence[float | None] = (900.0,),
    seeds: Sequence[int] | None = None,
    finished: bool = True,
    gap: float = 0.5,
    cosine: float = 0.6,
    steps: np.ndarray = STEPS,
    **options: Any,
) -> Path:
    """A run of one seed a final return: its return rises in a line from 0 to that, its gap and cosine stand still."""
    path.mkdir(parents=True)
    seeds = list(range(len(finals))) if seeds is None else list(seeds)
    config = {"task": task, "objective": {"name": objective, "clip_epsilon": 0.05}, "beta": beta, "preset": "cpu"}
    config |= {"seed_list": seeds, "out": str(path)} | options
    command = f"dipod train --task {task} --beta {beta} --seed-list {' '.join(map(str, seeds))}"
    (path / "config.json").write_text(json.dumps({"config": config, **ORIGIN, "command": command}))
    records = []
    for iteration, at in enumerate(steps.tolist()):
        for seed, final in zip(seeds, finals, strict=True):
            head = {"seed": seed, "iteration": iteration, "env_steps": at, "wall_clock_s": 1.0 + at / 1000}
            value = (final or 0.0) * at / max(1, steps[-1])
            records.append({"kind": "evaluation", **head, "return_mean": value, "zero_noise_return_mean": value})
            records.append({"kind": "drift", **head, "drift/gap": gap, "drift/gradient_cosine": cosine})
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if finished:
        write_result(path, seeds, finals, int(steps[-1]))
    return path


def write_result(path: Path, seeds: Sequence[int], finals: Sequence[float | None], env_steps: int) -> None:
    """`result.json` of a finished run."""
    summary = {"mean": 0.0, "ci95": None, "per_seed": list(finals)}
    result = {"seeds": list(seeds), "env_steps": env_steps, "wall_clock_s": 240.0}
    result |= {"final_return": summary, "final_return_zero_noise": summary}
    (path / "result.json").write_text(json.dumps(result))


def write_study(path: Path) -> Path:
    """Two tasks, betas 0 and 0.02 with three seeds each; and a run that is not finished, its last line half there."""
    units = path / "units"
    write_run(units / "a", task="BallInCup", beta=0.0, finals=(100.0, 200.0, 300.0), gap=8.0, cosine=0.1)
    write_run(units / "b", task="BallInCup", beta=0.02, finals=(800.0, 900.0, 950.0))
    write_run(units / "c", task="FingerSpin", beta=0.0, finals=(400.0, 500.0, 600.0), gap=6.0, cosine=0.2)
    write_run(units / "d", task="FingerSpin", beta=0.02, finals=(450.0, 500.0, 700.0))
    write_run(units / "e", task="FingerSpin", beta="auto", finals=(640.0,), finished=False)
    with (units / "e" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "evaluation", "seed": 0, "iterat')
    (path / "plan.csv").write_text("id,task\n" + "".join(f"{name},x\n" for name in "abcdef"))
    return path
