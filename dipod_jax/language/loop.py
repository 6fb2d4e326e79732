"""A post-training run: the only file of this package that touches the disk, the clock and the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.bounds.any_order import LARGEST_LENGTH
from dipod_jax.cli import resume_command
from dipod_jax.language.config import LanguageConfig, built_in_beta, to_json
from dipod_jax.language.evaluation import Accuracy, evaluate, means
from dipod_jax.language.post_training import Programs, RunState, Tunables, make_programs
from dipod_jax.language.pretrain import cached_folder, load_params, pretrained
from dipod_jax.language.replay import choose_problems
from dipod_jax.language.resuming import evaluation_is_due, measurement_is_due, resume
from dipod_jax.language.task import MASK, unseen
from dipod_jax.report import write_report
from dipod_jax.runs import RunFolder, Saver, StorageError, reason_of
from dipod_jax.runs.signals import StopRequest, stop_requested
from dipod_jax.training.clock import Clock
from dipod_jax.training.results import interval95
from dipod_jax.viz.language import plot_language

WAY_OUT = "make room and finish the run with --resume"


def train(
    config: LanguageConfig, *, programs: Programs | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Pretrain unless the cache holds the model, post-train every seed, and write everything to the run folder.

    Args:
        config: `out` is set; with `resume`, that of its folder.
        programs: compiled ones to use again, made for a config that differs in `Tunables` and seeds only.
        say: receives progress lines.

    Returns:
        What `result.json` holds.

    Raises:
        RunFolderError, CheckpointError: a folder cannot be used.
        StorageError: the folder is gone, or what the run has learned cannot be written.
        Stopped: on SIGINT, SIGTERM or SIGHUP, after the running iteration was saved. Where one comes in pretraining, a
            compilation, a measurement or an evaluation, the process ends instead within seconds, as saved.
    """
    with stop_requested() as stop, contextlib.closing(Run(config, programs, say, stop)) as run:
        run.start()
        while run.iteration < config.learning.num_iterations:
            run.iterate()
            if stop.is_set() and run.iteration < config.learning.num_iterations:
                run.leave_saved()
                raise stop.stopped()
        return run.finish()


class Run:
    """One run's folder, clock and state."""

    def __init__(
        self,
        config: LanguageConfig,
        programs: Programs | None,
        say: Callable[[str], None],
        stop: StopRequest | None = None,
    ):
        assert config.out is not None
        self.config, self.say, self.stop = config, say, stop or StopRequest()
        self.clock = Clock(time.perf_counter(), "pretraining_s", "training_s", "measuring_s", "evaluation_s")
        self.folder = RunFolder.resume(config.out) if config.resume else RunFolder.create(config.out, to_json(config))
        self.folder.say = say
        if self.folder.taken_over_from is not None:
            say(f"continuing for {self.folder.taken_over_from}")
        say(f"run folder: {self.folder.path}")
        self.programs = programs or make_programs(config)
        self.iteration = 0
        self.records: dict[str, list[dict[str, Any]]] = {}  # of a kind: those of every seed, in order
        self.problems = choose_problems(config.problems, None, config.measure.num_problems)
        self._saver = Saver(self.folder.checkpoints, keep=2, say=say)
        self._is_compiled = False

    @property
    def samples(self) -> int:
        """Number of answers that each seed has learned from."""
        return self.iteration * self.config.steps_per_iteration

    def start(self) -> None:
        """Pretrain, load or restore; measure and evaluate before the first update."""
        with self.stop.abandonable(self.leave_unchanged):
            state = self._take_up() if self.config.resume else None
            self.state = self._begin() if state is None else state
        if self.config.measure.drift_interval > 0 and not self.config.measures_drift:
            self.say(f"drift is not measured: its tables are of {LARGEST_LENGTH - 2} blanks at most")
        self._look()

    def _begin(self) -> RunState:
        config, network = self.config, self.config.build_network()
        if config.pretrained is not None:
            params = load_params(config.pretrained, network)
        else:
            before = time.perf_counter()
            params = pretrained(config.problems, network, config.pretraining, config.cache, self.say).params
            self.clock.add("pretraining_s", before)
        return self.programs.init(params, jnp.array(config.all_seeds, jnp.uint32), Tunables.of(config))

    def _take_up(self) -> RunState | None:
        """The state that the folder holds, with the clocks where they stopped; None where the run begins again."""
        state, records = resume(self.config, self.folder, self.programs, self.say)
        if state is None:
            return None
        self.iteration = int(state.iteration[0])
        for record in records:
            self.records.setdefault(record["kind"], []).append(record)
        self.clock.take_up(records, self.config.first_seed)
        self.say(f"continuing after iteration {self.iteration}")
        return state

    def iterate(self) -> None:
        """One iteration of every seed, then whatever is due after it."""
        self.folder.check()
        self._control_beta()
        before = time.perf_counter()
        # The first one compiles for half a minute, and has nothing to save yet.
        with contextlib.nullcontext() if self._is_compiled else self.stop.abandonable(self.leave_unchanged):
            self.state, metrics = self.programs.iterate(self.state)
            metrics = jax.device_get(metrics)
        self._is_compiled = True
        elapsed = self.clock.add("training_s", before)
        self.iteration += 1
        self._record("train", metrics, {"training_s": elapsed})
        self._look()
        last = self.iteration == self.config.learning.num_iterations
        if last or self._saver.is_due(self.config.checkpoint_interval):
            self.save(required=last)

    def _look(self) -> None:
        """Measure and evaluate what is due and was not done before the run was stopped."""
        leave = self.leave_saved if self.iteration > 0 else self.leave_unchanged
        with self.stop.abandonable(leave):
            if measurement_is_due(self.config, self.iteration) and not self._has("drift"):
                self.measure()
            if evaluation_is_due(self.config, self.iteration) and not self._has("evaluation"):
                self.evaluate()

    def measure(self) -> None:
        """Measure the exact drift."""
        assert self.programs.measure is not None
        before = time.perf_counter()
        drift = jax.device_get(self.programs.measure(self.state))
        elapsed = self.clock.add("measuring_s", before)
        self._record("drift", {f"drift/{name}": values for name, values in drift.items()}, {"measuring_s": elapsed})

    def _control_beta(self) -> None:
        """Adjust an automatic beta to the drift that was measured after the last iteration, if it was.

        A measurement itself changes nothing, so that one which is cut off can be made again.
        """
        if self.config.beta != "auto" or not self._has("drift"):
            return
        from dipod_jax.training.drift import control_beta

        gap = jnp.array([record["drift/gap"] for record in self._last("drift")], jnp.float32)
        built_in = built_in_beta(self.config)
        beta = self.state.tunables.beta - built_in
        moved = control_beta(beta, gap, self.config.beta_control, self.config.problems.num_blanks)
        self.state = self.state._replace(tunables=self.state.tunables._replace(beta=moved + built_in))

    def evaluate(self) -> None:
        """Evaluate every seed on held-out problems; record and print the accuracy."""
        before = time.perf_counter()
        found: Accuracy = jax.device_get(self.programs.evaluate(self.state, self.problems))
        elapsed = self.clock.add("evaluation_s", before)
        shares = {name: values.mean(1) for name, values in found._asdict().items()}
        count = {"num_problems": len(self.problems.prompt), "evaluation_s": elapsed}
        self._record("evaluation", {**shares, "return_mean": shares["reward"]}, count)
        drift = self._last("drift")
        gap = f"  gap {np.mean([record['drift/gap'] for record in drift]):6.3f}" if drift else ""
        self.say(
            f"{self.clock.wall_clock_s:7.1f} s  iteration {self.iteration:4d}  "
            f"greedy {_shown(shares['greedy'])}  sampled {_shown(shares['sampled'])}  "
            f"random order {_shown(shares['random_order'])}{gap}"
        )

    def save(self, *, required: bool = False) -> None:
        """Write a checkpoint of everything, as `Saver.save` does."""
        self.folder.check()
        self._saver.save(self.iteration, self.state._asdict(), required=required)

    def leave_saved(self) -> None:
        """End during training."""
        self.save(required=True)
        self._check_records()
        self._leave("stopped and saved")

    def leave_unchanged(self) -> None:
        """End before training has begun or gone on."""
        self._leave("stopped before it trained")

    def _leave(self, how: str) -> None:
        self.say(f"{how}; continue with {resume_command('language', self.folder.path)}")
        self.close()

    def _leave_finished(self) -> None:
        self._leave("stopped while drawing: the run is finished and its result written")

    def finish(self) -> dict[str, Any]:
        """Write the result, the picture and the report; an existing result is left as it is, unless the run was resumed
        for a test file that it lacks."""
        result = self.folder.standing_result("before", "final")
        if result is None or self._asks_for_another_file(result):
            result = self.result()
            self.folder.write_result(result)
        self._check_records()
        with self.stop.abandonable(self._leave_finished):
            self.draw()
        self.say(f"greedy accuracy {result['final']['greedy']['mean']:.3f}; everything is in {self.folder.path}")
        return result

    def _asks_for_another_file(self, result: dict[str, Any]) -> bool:
        there = result.get("test_file") or {}
        return self.config.test_file is not None and there.get("path") != str(self.config.test_file)

    def _check_records(self) -> None:
        if not self.folder.metrics_are_written():
            raise StorageError(f"the last records of {self.folder.path} cannot be written; {WAY_OUT}")

    def draw(self) -> None:
        """Write the picture and the report; what cannot be drawn or written is left out after one warning."""
        path = self.folder.path / "drift.png"
        picture = lambda: plot_language(self.folder.read_metrics(), path, title=str(self.folder.path.name))
        for name, write in {"drift.png": picture, "report.html": lambda: write_report(self.folder)}.items():
            try:
                write()
            except Exception as error:
                self.say(f"warning: no {name} ({reason_of(error)}); the run is finished without it")

    def close(self) -> None:
        """Release the folder."""
        self.folder.close()

    def result(self) -> dict[str, Any]:
        """The content of `result.json`; `pretraining_s` is that of the last session, other times of all."""
        config = self.config
        first = [record for record in self.records["evaluation"] if record["iteration"] == 0]
        last = self._last("evaluation")
        of = lambda records, names: {name: _summary([record[name] for record in records]) for name in names}
        final, about_file = of(last, Accuracy._fields), {}
        if drift := self._last("drift"):
            final |= of(drift, [name for name in drift[0] if name.startswith("drift/")])
        if config.test_file is not None:
            found, about_file = self._test_file()
            final |= {f"test_file/{name}": _summary(values) for name, values in found.items()}
        folder = cached_folder(config.problems, config.build_network(), config.pretraining, config.cache)
        return {
            "task": config.task,
            "objective": config.method,
            "beta": config.beta,
            "built_in_beta": built_in_beta(config),
            "seeds": list(config.all_seeds),
            "iterations": self.iteration,
            "samples": self.samples,
            "pretrained": str(config.pretrained or folder),
            "wall_clock_s": self.clock.wall_clock_s,
            **self.clock.timings,
            "final_return": _summary([record["reward"] for record in last]),
            "before": of(first, Accuracy._fields) if first else {},
            "final": final,
            **about_file,
        }

    def _test_file(self) -> tuple[dict[str, list[float]], dict[str, Any]]:
        """Accuracy of each seed on the problems of `--test-file`, which may have more blanks than the task's, and on
        those that are unlike every training problem; and how many there are of each."""
        assert self.config.test_file is not None
        problems = self.config.problems.read(self.config.test_file)
        fresh = unseen(problems, self.config.problems.problems("train"))
        num_blanks = int((problems.prompt == MASK).sum(1).max())
        policy, task = self.programs.policy, self.config.problems
        solve = jax.jit(lambda params, key: evaluate(policy, task, params, problems, key, num_blanks))
        of_seeds = [
            means(solve(jax.tree.map(lambda x, i=index: x[i], self.state.params), jax.random.key(seed)), fresh)
            for index, seed in enumerate(self.config.all_seeds)
        ]
        accuracy = {name: [found[name] for found in of_seeds] for name in of_seeds[0]}
        counts = {"path": str(self.config.test_file), "num_problems": len(fresh), "num_unseen": int(fresh.sum())}
        return accuracy, {"test_file": counts}

    def _last(self, kind: str) -> list[dict[str, Any]]:
        """The last records of a kind, one a seed; none where there is none."""
        return self.records.get(kind, [])[-len(self.config.all_seeds) :]

    def _has(self, kind: str) -> bool:
        """Whether every seed has a record of this kind after this iteration."""
        return len(self._seeds_with(kind)) == len(self.config.all_seeds)

    def _seeds_with(self, kind: str) -> set[int]:
        """The seeds that have a record of this kind after this iteration."""
        return {record["seed"] for record in self._last(kind) if record["iteration"] == self.iteration}

    def _record(self, kind: str, metrics: dict[str, np.ndarray], shared: dict[str, float]) -> None:
        """One line for each seed that has none yet, as a kill may have left some of them; `metrics` (S,)."""
        there = self._seeds_with(kind)
        for index, seed in enumerate(self.config.all_seeds):
            if seed in there:
                continue
            head = {"kind": kind, "seed": seed, "iteration": self.iteration, "env_steps": self.samples}
            clock = {"wall_clock_s": round(self.clock.wall_clock_s, 3)}
            record = head | clock | {name: float(values[index]) for name, values in metrics.items()} | shared
            self.folder.append_metrics(record)
            self.records.setdefault(kind, []).append(record)


def _shown(values: np.ndarray) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _summary(values: list[float]) -> dict[str, Any]:
    """The mean, its interval over seeds where there are several and all are numbers, and each seed's."""
    per_seed = np.array(values, float)
    bounds = interval95(per_seed) if np.isfinite(per_seed).all() else None
    return {"mean": float(per_seed.mean()), "ci95": bounds, "ci95_over": "seeds", "per_seed": per_seed.tolist()}
