"""Whole training iterations and their parts: against raw MuJoCo, native against mjx, over seeds.

    python -m benchmarks.end_to_end

- `loop`: iterations of the cpu preset (acting and learning) against `mujoco.rollout` on the same cores.
- `acting`: its rollouts alone, refreshed start states included, against the same.
- `evaluation`: whole episodes with random and with zero base noise, against the same.
- `meter`: the drift meter's time as a share of that of the iterations between two measurements.
- `seeds`: 1, 2 and 8 seeds in one program, all on the same cores.
- `paper`: the paper preset on native (on an accelerator: its backend) against mjx. The whole iteration has 983,040
  transitions; here it is cut to `paper_num_envs` x `paper_num_steps`, with the same minibatch and as many epochs, so
  acting and learning keep their proportion.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from benchmarks._command import Options, check_each, run
from benchmarks._report import Row, compare
from benchmarks._setup import RAW, RawRollout, programs_of, random_actions, set_up
from benchmarks._timing import Spread, Variant, interleave
from dipod_jax.checks import Checked, check_choice, check_number
from dipod_jax.config import Backend, Preset
from dipod_jax.envs.tasks import check_task
from dipod_jax.training.programs import Programs

PARTS = ("loop", "acting", "evaluation", "meter", "seeds", "paper")
LOOP_TARGET, METER_TARGET, SEEDS_TARGET, PAPER_TARGET = 0.4, 0.05, 1.3, 1.5


@dataclass(frozen=True)
class EndToEndOptions(Options):
    """Env steps/s of whole training iterations and their parts."""

    task: str = "BallInCup"
    """one of Playground's DM-Control tasks"""
    preset: Preset = "cpu"
    """preset of every part but paper"""
    parts: tuple[str, ...] = PARTS
    """what to measure: loop, acting, evaluation, meter, seeds, paper"""
    num_seeds: tuple[int, ...] = (1, 2, 8)
    """numbers of seeds trained at once, each >= 1, the first being what the others are compared with"""
    paper_num_envs: int = 1024
    """environments of the shortened paper iteration, >= 1"""
    paper_num_steps: int = 30
    """steps of the shortened paper iteration, >= 1, a multiple of the unroll length 30"""
    paper_minibatch: int = 30720
    """transitions of its gradient steps, >= 1, a multiple of 30 and a divisor of num_envs * num_steps"""

    def __post_init__(self):
        super().__post_init__()
        check_task(self.task)
        check_each(check_choice, "parts", self.parts, PARTS)
        check_each(check_number, "num-seeds", self.num_seeds, 1)
        check, batch = Checked(self), self.paper_num_envs * self.paper_num_steps
        check.choices()
        check.number("paper_num_envs", "paper_num_steps", "paper_minibatch", low=1)
        check.require(self.paper_num_steps % 30 == 0, "paper_num_steps", "a multiple of 30")
        divides = self.paper_minibatch % 30 == 0 and batch % self.paper_minibatch == 0
        check.require(divides, "paper_minibatch", f"a multiple of 30 and a divisor of {batch}")


class Training:
    """A run that goes on from where it is, by iterations or by rollouts alone."""

    def __init__(self, programs: Programs):
        self.programs, self.state = programs, jax.block_until_ready(programs.init())
        self.work = float(len(programs.seeds) * programs.config.steps_per_iteration)

    def iterate(self) -> None:
        """Act and learn."""
        self.state, _ = jax.block_until_ready(self.programs.iterate(self.state))

    def act(self) -> None:
        """Act and forget."""
        actor, _ = jax.block_until_ready(self.programs.act(*self.state))
        self.state = self.state._replace(actor=actor)

    def evaluate(self) -> None:
        """One chunk of episodes of each kind."""
        self.programs.evaluate(self.state.learner, self.programs.chunk_size)


def measure(options: EndToEndOptions) -> list[Row]:
    """All rows."""
    backend = set_up()
    rows = _over_raw(options, backend) if {"loop", "acting", "evaluation"} & set(options.parts) else []
    others = {"meter": _meter, "seeds": _seeds, "paper": _paper}
    return rows + [row for part in others if part in options.parts for row in others[part](options, backend)]


def _over_raw(options: EndToEndOptions, backend: Backend) -> list[Row]:
    """One seed on all cores against raw MuJoCo on the same cores, from states of the training itself."""
    training = Training(programs_of(options.preset, options.task, backend))
    training.iterate()
    programs, data = training.programs, jax.tree.map(lambda x: x[0], training.state.actor.env.physics.data)
    evaluated = float(2 * programs.chunk_size * programs.evaluation_env.episode_length)
    variants: dict[str, Variant] = {
        "loop": (training.iterate, training.work),
        "acting": (training.act, training.work),
        "evaluation": (training.evaluate, evaluated),
    }
    chosen = {name: variant for name, variant in variants.items() if name in options.parts}
    shape = programs.config.rollout.num_steps, programs.config.rollout.num_envs, programs.env.action_size
    raw = RawRollout(programs.env, data, random_actions(jax.random.key(7), *shape))
    samples = interleave({RAW: raw.variant} | chosen, options.repeats)
    targets = {"loop": LOOP_TARGET} if options.preset == "cpu" else {}
    return compare(f"{options.task} {options.preset}", samples, RAW, targets=targets)


def _meter(options: EndToEndOptions, backend: Backend) -> list[Row]:
    """One measurement against the iterations that it is made for, one seed."""
    training = Training(programs_of(options.preset, options.task, backend))
    measure, interval = training.programs.measure, training.programs.config.drift.interval
    assert measure is not None
    learner, actor = jax.tree.map(lambda x: x.copy(), training.state)
    _, transitions = training.programs.act(learner, actor)
    meter = lambda: jax.block_until_ready(measure(learner, transitions))
    samples = interleave({"iteration": (training.iterate, 1.0), "measurement": (meter, 1.0)}, options.repeats)
    pairs = zip(samples["measurement"], samples["iteration"], strict=True)
    share = Spread.of([m.seconds / (interval * i.seconds) for m, i in pairs])
    what, variant = f"{options.task} {options.preset} drift meter", f"every {interval} iterations"
    return [Row(what, variant, share, "of training time", target=METER_TARGET, samples=samples["measurement"])]


def _seeds(options: EndToEndOptions, backend: Backend) -> list[Row]:
    """Several seeds in one program: env steps/s of all of them together."""
    name = lambda n: f"{n} seed{'s' if n > 1 else ''}"
    runs = {n: Training(programs_of(options.preset, options.task, backend, num_seeds=n)) for n in options.num_seeds}
    samples = interleave({name(n): (run.iterate, run.work) for n, run in runs.items()}, options.repeats)
    what, targets = f"{options.task} {options.preset} seeds", {name(8): SEEDS_TARGET}
    return compare(what, samples, name(options.num_seeds[0]), targets=targets)


def _paper(options: EndToEndOptions, backend: Backend) -> list[Row]:
    """The paper preset's iteration, shortened, on this machine's backend against mjx."""
    shape = {
        "rollout.num_envs": options.paper_num_envs,
        "rollout.num_steps": options.paper_num_steps,
        "learning.minibatch_size": options.paper_minibatch,
    }
    names: dict[Backend, None] = dict.fromkeys((backend, "mjx"))
    runs = {name: Training(programs_of("paper", options.task, name, shape)) for name in names}
    samples = interleave({name: (run.iterate, run.work) for name, run in runs.items()}, options.repeats)
    note = f"{options.paper_num_envs * options.paper_num_steps:,} of 983,040 transitions"
    what, targets, notes = f"{options.task} paper iteration", {"native": PAPER_TARGET}, dict.fromkeys(samples, note)
    return compare(what, samples, "mjx", targets=targets, notes=notes)


if __name__ == "__main__":
    run("end_to_end", EndToEndOptions, measure)
