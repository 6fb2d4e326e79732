"""Whole training iterations: against raw MuJoCo, native against mjx, over seeds and over cores.

    python -m benchmarks.end_to_end

- `loop`: `Trainer.iterate` of the cpu preset (acting and learning) against `mujoco.rollout` on the same cores.
- `meter`: the drift meter's time as a share of that of the iterations between two measurements.
- `seeds`: 1, 2 and 8 seeds in one program, against one seed on all cores.
- `cores`: one seed on all cores against one seed on one core, each in a process of its own.
- `paper`: the paper preset on native (on an accelerator: its backend) against mjx. The whole iteration has 983,040
  transitions; here it is cut to `paper_num_envs` x `paper_num_steps`, with the same minibatch and as many epochs, so
  acting and learning keep their proportion.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from benchmarks._command import Options, require_each, require_tasks, run
from dipod_jax.checks import require

PARTS = ("loop", "meter", "seeds", "cores", "paper")
LOOP_TARGET, METER_TARGET, SEEDS_TARGET, PAPER_TARGET = 0.4, 0.05, 1.3, 1.5


@dataclass(frozen=True)
class EndToEndOptions(Options):
    """Env steps/s of whole training iterations."""

    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    preset: str = "cpu"
    """preset of every part but paper: cpu, paper or smoke"""
    parts: tuple[str, ...] = PARTS
    """what to measure: loop, meter, seeds, cores, paper"""
    num_seeds: tuple[int, ...] = (1, 2, 8)
    """numbers of seeds trained at once, each >= 1, the first being what the others are compared with"""
    paper_num_envs: int = 1024
    """environments of the shortened paper iteration, >= 1"""
    paper_num_steps: int = 30
    """steps of the shortened paper iteration, >= 1, a multiple of the unroll length 30"""
    paper_minibatch: int = 30720
    """transitions of its gradient steps, >= 1, a divisor of num_envs * num_steps"""
    paper_repeats: int = 3
    """turns of the paper part, whose iterations take many seconds, >= 1"""

    def __post_init__(self):
        from dipod_jax.presets import PRESETS

        super().__post_init__()
        require_tasks("task", (self.task,))
        require(self.preset in PRESETS, "preset", self.preset, ", ".join(PRESETS))
        require_each(lambda p: p in PARTS, "parts", self.parts, ", ".join(PARTS))
        require_each(lambda n: n >= 1, "num-seeds", self.num_seeds, "numbers >= 1")
        for name in ("paper_num_envs", "paper_num_steps", "paper_minibatch", "paper_repeats"):
            require(getattr(self, name) >= 1, name.replace("_", "-"), getattr(self, name), "at least 1")
        batch = self.paper_num_envs * self.paper_num_steps
        require(batch % self.paper_minibatch == 0, "paper-minibatch", self.paper_minibatch, f"a divisor of {batch}")
        require(self.paper_num_steps % 30 == 0, "paper-num-steps", self.paper_num_steps, "a multiple of 30")


def measure(options: EndToEndOptions) -> list:
    """All rows."""
    from benchmarks._setup import set_up

    backend, rows = set_up(), []
    measures = {"loop": _loop, "meter": _meter, "seeds": _seeds, "cores": _cores, "paper": _paper}
    for part in options.parts:
        rows += measures[part](options, backend)
    return rows


def make_loop(
    task: str, preset: str, backend: Any, num_seeds: int = 1, **shape: int
) -> tuple[Callable[[], Any], float]:
    """An iteration that carries its state on, and its env steps; `shape` overrides num_envs, num_steps, minibatch."""
    iterate, trainer, _ = _make_loop(task, preset, backend, num_seeds, **shape)
    return iterate, float(num_seeds * trainer.config.steps_per_iteration)


def _make_loop(task: str, preset: str, backend: Any, num_seeds: int, **shape: int) -> tuple[Any, Any, Any]:
    """As `make_loop`, with the trainer and a function that returns the state."""
    import jax
    from dipod_jax.training.trainer import Trainer

    from dipod_jax.presets import PRESETS

    config = replace(PRESETS[preset](task, "fpo"), backend=backend)
    if shape:
        rollout = replace(config.rollout, num_envs=shape["num_envs"], num_steps=shape["num_steps"])
        learning = replace(config.learning, minibatch_size=shape["minibatch_size"])
        config = replace(config, rollout=rollout, learning=learning)
    trainer = Trainer(config, tuple(range(num_seeds)))
    state = jax.block_until_ready(trainer.init())

    def iterate() -> None:
        nonlocal state
        state, metrics = trainer.iterate(state)
        jax.block_until_ready((state, metrics))

    return iterate, trainer, lambda: state


def _loop(options: EndToEndOptions, backend: Any) -> list:
    """One seed on all cores against raw MuJoCo on the same cores, from states of the training itself."""
    import jax

    from benchmarks import _setup
    from benchmarks._report import compare
    from benchmarks._timing import interleave

    iterate, trainer, state = _make_loop(options.task, options.preset, backend, 1)
    iterate()
    data = jax.tree.map(lambda x: x[0], state().actor.env.physics.data)
    raw = _setup.raw_rollout(trainer.env, data, trainer.config.rollout.num_steps)
    work = float(trainer.config.steps_per_iteration)
    samples = interleave({_setup.RAW: raw.variant, "training": (iterate, work)}, options.repeats)
    targets = {"training": LOOP_TARGET} if options.preset == "cpu" else {}
    on_cpu = jax.default_backend() == "cpu"
    what = f"{options.task} {options.preset} loop"
    return compare(what, samples, _setup.RAW, targets=targets, cpu_time=on_cpu)


def _meter(options: EndToEndOptions, backend: Any) -> list:
    """One measurement against the iterations that it is made for, one seed."""
    import jax

    from benchmarks._report import Row
    from benchmarks._timing import Spread, interleave

    iterate, trainer, state = _make_loop(options.task, options.preset, backend, 1)
    learner, actor = jax.tree.map(lambda x: x.copy(), state())
    _, transitions = trainer.act(learner, actor)
    measure = lambda: jax.block_until_ready(trainer.measure(learner, transitions))
    samples = interleave({"iteration": (iterate, 1.0), "measurement": (measure, 1.0)}, options.repeats)
    interval = trainer.config.drift.interval
    pairs = zip(samples["measurement"], samples["iteration"], strict=True)
    share = Spread.of([m.seconds / (interval * i.seconds) for m, i in pairs])
    what, variant = f"{options.task} {options.preset} drift meter", f"every {interval} iterations"
    row = Row(what, variant, share, "of training time", target=METER_TARGET, samples=samples["measurement"])
    return [row]


def _seeds(options: EndToEndOptions, backend: Any) -> list:
    """Several seeds in one program: env steps/s of all of them together."""
    import jax

    from benchmarks._report import compare
    from benchmarks._timing import interleave

    name = lambda n: f"{n} seed{'s' if n > 1 else ''}"
    variants = {name(n): make_loop(options.task, options.preset, backend, n) for n in options.num_seeds}
    samples = interleave(variants, options.repeats)
    what = f"{options.task} {options.preset} seeds"
    targets = {name(8): SEEDS_TARGET}
    on_cpu = jax.default_backend() == "cpu"
    return compare(what, samples, name(options.num_seeds[0]), targets=targets, cpu_time=on_cpu)


def _cores(options: EndToEndOptions, backend: Any) -> list:
    """One seed on all cores against the same on one; nothing to compare on an accelerator."""
    from benchmarks._report import compare
    from benchmarks._setup import available_cores
    from benchmarks._timing import interleave
    from benchmarks._worker import Worker

    cores = available_cores()
    if backend != "native" or cores < 2 or not hasattr(os, "sched_setaffinity"):
        return []
    with ExitStack() as stack:
        workers = {
            f"{n} core{'s' if n > 1 else ''}": stack.enter_context(
                Worker(cores=n, task=options.task, preset=options.preset, backend=backend)
            )
            for n in (1, cores)
        }
        samples = interleave({name: (worker, worker.work) for name, worker in workers.items()}, options.repeats)
    what = f"{options.task} {options.preset} cores"
    return compare(what, samples, "1 core", cpu_time=False)  # the children's CPU time is not ours


def _paper(options: EndToEndOptions, backend: Any) -> list:
    """The paper preset's iteration, shortened, on this machine's backend against mjx."""
    import jax

    from benchmarks._report import compare
    from benchmarks._timing import interleave

    shape = {
        "num_envs": options.paper_num_envs,
        "num_steps": options.paper_num_steps,
        "minibatch_size": options.paper_minibatch,
    }
    names: dict[str, None] = dict.fromkeys((backend, "mjx"))
    variants = {name: make_loop(options.task, "paper", name, **shape) for name in names}
    samples = interleave(variants, options.paper_repeats)
    steps = options.paper_num_envs * options.paper_num_steps
    notes: dict[str, str] = dict.fromkeys(names, f"{steps:,} of 983,040 transitions")
    targets = {"native": PAPER_TARGET}
    on_cpu = jax.default_backend() == "cpu"
    what = f"{options.task} paper iteration"
    return compare(what, samples, "mjx", targets=targets, notes=notes, cpu_time=on_cpu)


if __name__ == "__main__":
    run("end_to_end", EndToEndOptions, measure)
