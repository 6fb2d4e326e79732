"""A run of the real loop over programs that only count, so that its hundred kills and full disks take seconds.

As a program: `python fake_run.py "{'out': OUT, option: value ...}"` trains, and behaves as the training command does;
`FakeSession` is that program without the seconds in which it imports.
"""

import ast
import dataclasses
import hashlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from dipod_jax.cli import run_cli
from dipod_jax.config import Config, EvaluationConfig, RolloutConfig
from dipod_jax.presets import smoke

SIZE = 40


class FakeLearner(NamedTuple):
    params: Any
    obs_statistics: Any
    tunables: Any
    key: Any
    iteration: Any


class FakeTunables(NamedTuple):
    beta: Any


class FakeActor(NamedTuple):
    env: Any
    base_noise: Any


class Failures(NamedTuple):
    num_failures: Any


def busy(seconds: float) -> None:
    """Compute where no Python signal handler runs, as XLA does; without the interpreter's lock."""
    if seconds > 0:
        hashlib.pbkdf2_hmac("sha256", b"", b"", round(seconds * 2.5e6))


def draw(seed: int, *numbers: int) -> np.ndarray:
    return np.random.default_rng((seed, *numbers)).standard_normal(SIZE).astype(np.float32)


class FakePrograms:
    """A state of `SIZE` numbers a seed, each iteration a function of seed, iteration and the numbers before."""

    measure = distil = None
    layout = SimpleNamespace(mesh=SimpleNamespace(size=1))

    def __init__(self, seeds=(0,), **seconds: float):
        """`seconds` says how long compile, act and evaluate take."""
        self.seeds, self.seconds = seeds, seconds

    def init(self):
        from dipod_jax.training.state import TrainState

        count = len(self.seeds)
        learner = FakeLearner(
            params={
                "policy": {"w": np.stack([draw(s) for s in self.seeds])},
                "critic": np.zeros((count, 3), np.float32),
            },
            obs_statistics=np.ones((count, 2), np.float32),
            tunables=FakeTunables(np.zeros(count, np.float32)),
            key=np.arange(count, dtype=np.int32),
            iteration=np.zeros(count, np.int32),
        )
        actor = FakeActor(Failures(np.zeros((count, 2), np.int32)), np.zeros((count, 2, 1), np.float32))
        return TrainState(learner, actor)

    def abstract_state(self):
        import jax

        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.init())

    def with_tunables(self, state, tunables):
        return state

    def compile(self):
        busy(self.seconds.get("compile", 0.0))
        return self

    def act(self, learner, actor):
        busy(self.seconds.get("act", 0.0))
        return actor, None

    def learn(self, learner, transitions):
        iteration = np.asarray(learner.iteration) + 1
        old = np.asarray(learner.params["policy"]["w"])
        w = np.stack([draw(s, iteration[0], int(abs(old[i, 0]) * 1e6)) for i, s in enumerate(self.seeds)])
        params = {**learner.params, "policy": {"w": w}}
        return learner._replace(params=params, iteration=iteration), {"loss": w.mean(1)}

    def evaluate(self, learner, num_episodes):
        from dipod_jax.training.evaluation import EpisodeReturns

        busy(self.seconds.get("evaluate", 0.0))
        w = np.asarray(learner.params["policy"]["w"])
        return EpisodeReturns(100 * w[:, :num_episodes], 100 * w[:, :num_episodes] + 1)


def fake_config(out: Path, **options) -> Config:
    """One env step an iteration, and an evaluation every five."""
    base = smoke("PendulumSwingup", "fpo")
    return dataclasses.replace(
        base,
        out=out,
        preset="smoke",
        backend="native",
        rollout=RolloutConfig(num_envs=16, num_steps=1),
        learning=dataclasses.replace(base.learning, minibatch_size=16, unroll_length=1),
        drift=dataclasses.replace(base.drift, interval=0),
        evaluation=EvaluationConfig(interval=80, num_episodes=8, num_episodes_during=4),
        **{"total_steps": 160, "checkpoint_interval": 0.0, "logger": "none", **options},
    )


def main(options: dict[str, Any]) -> None:
    """Train; `options` are those of `Config`, the seconds of `FakePrograms`, and the size limit of a file."""
    from dipod_jax.training import loop

    if "draw" in options:
        drawing = options.pop("draw")
        loop.write_artifacts = lambda *_: busy(drawing)
    else:
        loop.write_artifacts = lambda *_: None
    if "file_limit" in options:
        limit = options.pop("file_limit")
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    seconds = {name: options.pop(name, 0.0) for name in ("compile", "act", "evaluate")}
    config = fake_config(Path(options.pop("out")), **options)
    loop.make_programs = lambda config, seeds: FakePrograms(seeds, **seconds)
    loop.train(config)


def as_program(argv: list[str]) -> None:
    run_cli(lambda words: ast.literal_eval(words[0]), main, argv)


ROOT = Path(__file__).resolve().parents[2]


def command(out: Path, **options) -> dict[str, Any]:
    """Arguments of `subprocess.Popen` for a fake run in a process of its own."""
    words = [sys.executable, __file__, repr({"out": str(out), **options})]
    return {"args": words, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "text": True}


class FakeSession:
    """What `subprocess.Popen(**command(out, **options), stdout=-1, stderr=-1)` is, as far as the tests ask.

    A process of its own too, but forked from a server that has imported everything and started nothing.
    """

    def __init__(self, out: Path, **options):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fake_run", "dipod_jax.training.loop", "orbax.checkpoint", "mujoco"])
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(Path(__file__).parent)])):
            forkserver.ensure_running()
        (out_end, out_of_child), (err_end, err_of_child) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        words = [__file__, repr({"out": str(out), **options})]
        self._process = context.Process(target=_session, args=(words, out_of_child, err_of_child), daemon=True)
        self._process.start()
        self.pid: int = self._process.pid or 0
        for ours in (out_of_child, err_of_child):
            ours.close()
        self.stdout, self._stderr = (os.fdopen(os.dup(end.fileno())) for end in (out_end, err_end))

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("fake_run.py", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 120.0) -> tuple[str, str]:
        """The rest of what it prints, after its end; it prints less than a pipe holds."""
        try:
            self.wait(timeout)
        finally:
            self.kill()
        with self.stdout, self._stderr:
            return self.stdout.read(), self._stderr.read()


def run_session(out: Path, **options) -> subprocess.CompletedProcess:
    """A fake run from its start to its end."""
    session = FakeSession(out, **options)
    printed, err = session.communicate()
    return subprocess.CompletedProcess(["fake_run.py", str(out)], session.wait(), printed, err)


def _session(words: list[str], out: Any, err: Any) -> None:
    """In the new process: the program, its output in the two pipes."""
    sys.argv = words
    for pipe, descriptor in ((out, 1), (err, 2)):
        os.dup2(pipe.fileno(), descriptor)
        pipe.close()
    as_program(words[1:])


if __name__ == "__main__":
    as_program(sys.argv[1:])
