"""A post-training run: the only file of this package that touches the disk, the clock and the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.language.config import LanguageConfig, built_in_beta, to_json
from dipod_jax.language.evaluation import Accuracy, evaluate
from dipod_jax.language.post_training import Programs, RunState, Tunables, make_programs
from dipod_jax.language.pretrain import Pretrained, load_params, pretrained
from dipod_jax.language.replay import choose_problems
from dipod_jax.language.task import MASK
from dipod_jax.report import write_report
from dipod_jax.runs import CheckpointError, RunFolder, StorageError, reason_of, save_checkpoint
from dipod_jax.runs.folder import RESULT
from dipod_jax.runs.signals import say as _say_on_stderr
from dipod_jax.runs.signals import stop_requested
from dipod_jax.viz.language import plot_language

WAY_OUT = "make room and train it again, in a new --out"


def train(
    config: LanguageConfig, *, programs: Programs | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Pretrain unless the cache holds the model, post-train every seed, and write everything to the run folder.

    Args:
        config: `out` is set.
        programs: compiled ones to use again, made for a config that differs in `Tunables` and seeds only.
        say: receives progress lines.

    Returns:
        What `result.json` holds.

    Raises:
        RunFolderError, CheckpointError: a folder cannot be used.
        StorageError: the folder is gone, or what the run has learned cannot be written.
        KeyboardInterrupt: on SIGINT, SIGTERM or SIGHUP, after the running iteration; where that takes more than a
            second the process ends. A run has no policy on the disk before its end.
    """
    with stop_requested() as stop, contextlib.closing(Run(config, programs, say)) as run:
        with stop.abandonable(lambda: _say_on_stderr("interrupted")):
            run.start()
            while run.iteration < config.learning.num_iterations:
                run.iterate()
                if stop.is_set() and run.iteration < config.learning.num_iterations:
                    raise stop.stopped()
        result = run.save()
        with stop.abandonable(lambda: _say_on_stderr(f"interrupted; the run is finished and in {run.folder.path}")):
            run.draw()
        say(f"greedy accuracy {result['final']['greedy']['mean']:.3f}; everything is in {run.folder.path}")
        return result


class Run:
    """One run's folder, clock and state."""

    def __init__(self, config: LanguageConfig, programs: Programs | None, say: Callable[[str], None]):
        assert config.out is not None
        self.config, self.say = config, say
        self.folder = RunFolder.create(config.out, to_json(config))
        self._zero = time.perf_counter()
        self.programs = programs or make_programs(config)
        self.iteration = 0
        self.timings = {"pretraining_s": 0.0, "training_s": 0.0, "measuring_s": 0.0, "evaluation_s": 0.0}
        self.evaluations: list[list[dict[str, Any]]] = []  # one entry a time, then one a seed
        self.problems = choose_problems(config.problems, None, config.measure.num_problems)

    @property
    def samples(self) -> int:
        """Number of answers that each seed has learned from."""
        return self.iteration * self.config.learning.num_prompts * self.config.learning.samples_per_prompt

    def start(self) -> None:
        """Pretrain or load, measure and evaluate before the first update."""
        found = self._pretrained()
        self.timings["pretraining_s"] = found.seconds
        self.pretrained = found
        seeds = jnp.array(self.config.all_seeds, jnp.uint32)
        self.state: RunState = self.programs.init(found.params, seeds, Tunables.of(self.config))
        self.measure()
        self.evaluate()

    def _pretrained(self) -> Pretrained:
        config, network = self.config, self.config.build_network()
        if config.pretrained is not None:
            return Pretrained(load_params(config.pretrained, network), config.pretrained, True, 0.0)
        return pretrained(config.problems, network, config.pretraining, config.cache, self.say)

    def iterate(self) -> None:
        """One iteration of every seed, then whatever is due after it."""
        self.folder.check()
        before = time.perf_counter()
        self.state, metrics = self.programs.iterate(self.state)
        metrics = jax.device_get(metrics)
        elapsed = time.perf_counter() - before
        self.timings["training_s"] += elapsed
        self.iteration += 1
        self._record("train", metrics, {"training_s": elapsed})
        last = self.iteration == self.config.learning.num_iterations
        options = self.config.measure
        if last or (options.drift_interval > 0 and self.iteration % options.drift_interval == 0):
            self.measure()
        if last or self.iteration % options.evaluation_interval == 0:
            self.evaluate()

    def measure(self) -> None:
        """Measure the exact drift where it is asked for, and adjust an automatic beta to it."""
        if self.programs.measure is None:
            return
        before = time.perf_counter()
        drift = jax.device_get(self.programs.measure(self.state))
        elapsed = time.perf_counter() - before
        self.timings["measuring_s"] += elapsed
        self._record("drift", {f"drift/{name}": values for name, values in drift.items()}, {"measuring_s": elapsed})
        self._drift = drift
        if self.config.beta == "auto":
            self._control_beta(drift["gap"])

    def _control_beta(self, gap: np.ndarray) -> None:
        from dipod_jax.training.drift import control_beta

        built_in = built_in_beta(self.config)
        beta = self.state.tunables.beta - built_in
        moved = control_beta(beta, jnp.asarray(gap), self.config.beta_control, self.config.problems.num_blanks)
        self.state = self.state._replace(tunables=self.state.tunables._replace(beta=moved + built_in))

    def evaluate(self) -> None:
        """Evaluate every seed on held-out problems; record and print the accuracy."""
        before = time.perf_counter()
        found: Accuracy = jax.device_get(self.programs.evaluate(self.state, self.problems))
        elapsed = time.perf_counter() - before
        self.timings["evaluation_s"] += elapsed
        means = {name: values.mean(1) for name, values in found._asdict().items()}
        count = {"num_problems": len(self.problems.prompt), "evaluation_s": elapsed}
        self.evaluations.append(self._record("evaluation", {**means, "return_mean": means["reward"]}, count))
        gap = "" if not hasattr(self, "_drift") else f"  gap {self._drift['gap'].mean():6.3f}"
        self.say(
            f"{time.perf_counter() - self._zero:7.1f} s  iteration {self.iteration:4d}  "
            f"greedy {_shown(means['greedy'])}  sampled {_shown(means['sampled'])}  "
            f"random order {_shown(means['random_order'])}{gap}"
        )

    def save(self) -> dict[str, Any]:
        """Write the parameters and the result, which is returned.

        Raises:
            StorageError: the disk refuses them, or some of the records.
        """
        try:
            save_checkpoint(self.folder.checkpoints, self.iteration, {"params": self.state.params}, keep=1)
            result = self.result()
            self.folder.write_json(RESULT, result)
        except (OSError, CheckpointError) as error:
            raise StorageError(f"{self.folder.path} cannot be written into ({reason_of(error)}); {WAY_OUT}") from error
        if not self.folder.metrics_are_written():
            raise StorageError(f"{self.folder.path} takes no more records; {WAY_OUT}")
        return result

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
        """The content of `result.json`."""
        config = self.config
        last = {name: [e[name] for e in self.evaluations[-1]] for name in Accuracy._fields}
        if hasattr(self, "_drift"):
            last |= {f"drift/{name}": values.tolist() for name, values in self._drift.items()}
        if config.test_file is not None:
            last |= {f"test_file/{name}": values for name, values in self._test_file().items()}
        first = {name: [e[name] for e in self.evaluations[0]] for name in Accuracy._fields}
        return {
            "task": config.task,
            "objective": config.method,
            "beta": config.beta,
            "built_in_beta": built_in_beta(config),
            "seeds": list(config.all_seeds),
            "iterations": self.iteration,
            "samples": self.samples,
            "pretrained": str(self.pretrained.path),
            "wall_clock_s": time.perf_counter() - self._zero,
            **self.timings,
            "final_return": {"mean": float(np.mean(last["reward"])), "per_seed": last["reward"]},
            "before": {name: _summary(values) for name, values in first.items()},
            "final": {name: _summary(values) for name, values in last.items()},
        }

    def _test_file(self) -> dict[str, list[float]]:
        """Accuracy of each seed on the problems of `--test-file`, which may have more blanks than the task's."""
        assert self.config.test_file is not None
        problems = self.config.problems.read(self.config.test_file)
        num_blanks = int((problems.prompt == MASK).sum(1).max())
        policy, task = self.programs.policy, self.config.problems
        solve = jax.jit(lambda params, key: evaluate(policy, task, params, problems, key, num_blanks))
        found = [
            jax.device_get(solve(jax.tree.map(lambda x, i=index: x[i], self.state.params), jax.random.key(seed)))
            for index, seed in enumerate(self.config.all_seeds)
        ]
        return {name: [float(getattr(one, name).mean()) for one in found] for name in Accuracy._fields}

    def _record(self, kind: str, metrics: dict[str, np.ndarray], shared: dict[str, float]) -> list[dict[str, Any]]:
        """One line for each seed; `metrics` (S,)."""
        records = []
        for index, seed in enumerate(self.config.all_seeds):
            head = {"kind": kind, "seed": seed, "iteration": self.iteration, "env_steps": self.samples}
            clock = {"wall_clock_s": round(time.perf_counter() - self._zero, 3)}
            record = head | clock | {name: float(values[index]) for name, values in metrics.items()} | shared
            self.folder.append_metrics(record)
            records.append(record)
        return records


def _shown(values: np.ndarray) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _summary(values: list[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "per_seed": [float(value) for value in values]}
