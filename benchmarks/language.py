"""The language room: a forward and a backward pass against the machine's matrix-product peak, an iteration of
post-training, pretraining.

    taskset -c 0 python -m benchmarks.language

The targets are of one core. The peak is the best rate of large single-precision products, timed in the same turns;
operations are those that the compiler counts before it optimises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._command import Options, check_each, run
from benchmarks._report import Row, compare
from benchmarks._setup import blocking
from benchmarks._timing import Spread, Variant, interleave
from benchmarks.update import PEAK, sgemm
from dipod_jax.checks import Checked, check_choice
from dipod_jax.language import TASKS
from dipod_jax.language.config import LanguageConfig, make_config
from dipod_jax.language.methods import available_methods
from dipod_jax.language.model import token_log_probs
from dipod_jax.language.post_training import Tunables, make_programs
from dipod_jax.language.pretrain import init_params, pretrain

PARTS = ("network", "iteration", "measurement", "pretraining")
ITERATION_TARGETS = {"fpo": 0.6, "spg": 0.6}
PRETRAINING_TARGETS = {"sudoku": 20.0}
PEAK_SIZES = (512, 1024)


@dataclass(frozen=True)
class LanguageOptions(Options):
    """The language room: passes of its network over the sgemm peak, iterations, pretraining."""

    task: str = "sudoku"
    """sudoku or countdown"""
    parts: tuple[str, ...] = PARTS
    """what to measure: network, iteration, measurement, pretraining"""
    objectives: tuple[str, ...] = ("fpo", "spg", "d1")
    """methods whose iteration is timed"""
    batch: int = 512
    """sequences of one pass, >= 1"""
    pretraining_steps: int | None = None
    """steps of pretraining, >= 1; none: the task's own"""

    def __post_init__(self):
        super().__post_init__()
        check_choice("task", self.task, TASKS)
        check_each(check_choice, "parts", self.parts, PARTS)
        check_each(check_choice, "objectives", self.objectives, available_methods())
        Checked(self).number("batch", "pretraining_steps", low=1)


def measure(options: LanguageOptions) -> list[Row]:
    """All rows."""
    measures = {
        "network": _network,
        "iteration": _iterations,
        "measurement": _measurements,
        "pretraining": _pretraining,
    }
    return [row for part in options.parts for row in measures[part](options)]


def _network(options: LanguageOptions) -> list[Row]:
    """Operations a second of a forward, and of a forward and backward pass, and of the best square product."""
    config = make_config(options.task)
    network, key = config.build_network(), jax.random.key(0)
    params = init_params(network, key)
    tokens = jax.random.randint(key, (options.batch, network.length), 1, network.vocab_size + 1)
    forward = lambda p, x: token_log_probs(jnp.asarray(network.apply(p, x)), x).mean()
    passes = {"forward": forward, "forward and backward": jax.grad(forward)}
    variants = {f"sgemm {size}": sgemm(size) for size in PEAK_SIZES}
    variants |= {name: counted(fn, params, tokens) for name, fn in passes.items()}
    samples = interleave(variants, options.repeats)
    squares = [samples.pop(f"sgemm {size}") for size in PEAK_SIZES]
    peak = [min(turn, key=lambda s: s.seconds / s.work) for turn in zip(*squares, strict=True)]
    seconds = {name: min(s.seconds for s in samples[name]) for name in passes}
    notes = {name: f"{options.batch / seconds[name]:.0f} sequences/s" for name in passes}
    return compare("network", {PEAK: peak} | samples, PEAK, unit="FLOP/s", notes=notes)


def counted(fn: Callable, *args: Any) -> Variant:
    """A call of `fn`, and its operations."""
    program = jax.jit(fn)
    found = program.lower(*args).cost_analysis()
    assert found is not None
    return blocking(program, *args), float(found["flops"])


def _iterations(options: LanguageOptions) -> list[Row]:
    """Seconds of one iteration of each method, at its own settings."""
    variants = {name: (iteration(make_config(options.task, name)), 1.0) for name in options.objectives}
    return _times("iteration", variants, options.repeats, ITERATION_TARGETS)


def iteration(config: LanguageConfig) -> Callable[[], Any]:
    """A call that runs one iteration, each from where the last one ended."""
    programs = make_programs(config)
    params = init_params(config.build_network(), jax.random.key(0))
    state = programs.init(params, jnp.zeros(1, jnp.uint32), Tunables.of(config))

    def call() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(programs.iterate(state))

    return call


def _measurements(options: LanguageOptions) -> list[Row]:
    """Seconds of one measurement of the exact drift, and of one evaluation."""
    from dipod_jax.language.replay import choose_problems

    config = make_config(options.task)
    programs = make_programs(config)
    params = init_params(config.build_network(), jax.random.key(0))
    state = programs.init(params, jnp.zeros(1, jnp.uint32), Tunables.of(config))
    problems = choose_problems(config.problems, None, config.measure.num_problems)
    variants: dict[str, Variant] = {"evaluation": (blocking(programs.evaluate, state, problems), 1.0)}
    if programs.measure is not None:
        variants["drift"] = blocking(programs.measure, state), 1.0
    return _times("measurement", variants, options.repeats, {})


def _pretraining(options: LanguageOptions) -> list[Row]:
    """Seconds of the whole pretraining, compilation included."""
    config = make_config(options.task)
    steps = options.pretraining_steps or config.pretraining.steps
    settings = type(config.pretraining)(**vars(config.pretraining) | {"steps": steps})
    call = lambda: jax.block_until_ready(
        pretrain(config.problems, config.build_network(), settings, say=lambda line: None)
    )
    targets = PRETRAINING_TARGETS if options.pretraining_steps is None else {}
    return _times("pretraining", {options.task: (call, 1.0)}, options.repeats, targets, warm_ups=0)


def _times(
    what: str, variants: dict[str, Variant], repeats: int, targets: dict[str, float], warm_ups: int = 1
) -> list[Row]:
    """Rows of seconds, with those of CPU time beside them."""
    rows = []
    for name, own in interleave(variants, repeats, warm_ups).items():
        note = f"{min(s.cpu_seconds for s in own):.3g} s of cpu time"
        value = Spread.of([s.seconds for s in own])
        rows.append(Row(what, name, value, "s", target=targets.get(name), note=note, samples=own))
    return rows


if __name__ == "__main__":
    run("language", LanguageOptions, measure)
