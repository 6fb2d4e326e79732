"""Reading back a language run: its policy, its accuracy, and its solution of a problem step by step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.checks import require
from dipod_jax.language.config import LanguageConfig, from_json
from dipod_jax.language.decoding import DecoderOptions
from dipod_jax.language.evaluation import Accuracy, decode_problems, decoders, evaluate
from dipod_jax.language.pretrain import init_params
from dipod_jax.language.task import MASK, Problems, Task
from dipod_jax.memory import check_post_training
from dipod_jax.policies.masked import MaskedPolicy
from dipod_jax.runs import CheckpointError, RunFolder, latest_checkpoint, restore_checkpoint
from dipod_jax.types import Params


class LoadedRun(NamedTuple):
    """What a run folder holds of one seed."""

    config: LanguageConfig
    policy: MaskedPolicy
    params: Params
    seed: int

    def evaluate(self, problems: Problems, seed: int = 0) -> Accuracy:
        """Accuracy on problems with three decoders; problems may have more blanks than the task's."""
        num_blanks = int((np.asarray(problems.prompt) == MASK).sum(1).max())
        solve = jax.jit(
            lambda params, key: evaluate(self.policy, self.config.problems, params, problems, key, num_blanks)
        )
        return solve(self.params, jax.random.key(seed))

    def acting_by(self, decoder: DecoderOptions) -> LoadedRun:
        """The same parameters with another decoder for greedy and sampled answers."""
        config = dataclasses.replace(self.config, policy=dataclasses.replace(self.config.policy, decoder=decoder))
        return self._replace(config=config, policy=config.build_policy())

    def show(self, prompt: np.ndarray) -> str:
        """The greedy solution of one problem (L,), step by step."""
        num_blanks = int((prompt == MASK).sum())
        options = decoders(self.policy.options.decoder)["greedy"]
        found = decode_problems(
            self.policy, self.params, jnp.asarray(prompt)[None], jax.random.key(0), options, num_blanks
        )
        return render_steps(self.config.problems, np.asarray(found.tokens)[0], np.asarray(found.step)[0])


def check_run(path: Path, seed: int | None = None) -> LanguageConfig:
    """The config of a run folder, once the run is found to have a policy and that seed.

    Raises:
        RunFolderError: not a run folder.
        CheckpointError: it holds no parameters.
        ValueError: the run is of another kind, or has no such seed.
    """
    folder = RunFolder.open(path)
    config = from_json(folder.config)
    check_post_training(config)
    seed = config.first_seed if seed is None else seed
    require(seed in config.all_seeds, "seed", seed, f"one of {', '.join(map(str, config.all_seeds))}, as in {path}")
    if latest_checkpoint(folder.checkpoints) is None:
        raise CheckpointError(f"{path} holds no checkpoint yet; continue the run with --resume")
    return config


def load_run(path: Path, seed: int | None = None) -> LoadedRun:
    """The newest policy of one seed of a run, the first where None.

    Raises:
        RunFolderError, ValueError: as `check_run`.
        CheckpointError: it holds no parameters, or those of another network.
    """
    config = check_run(path, seed)
    checkpoint = latest_checkpoint(RunFolder.open(path).checkpoints)
    assert checkpoint is not None
    one = jax.eval_shape(lambda: init_params(config.build_network(), jax.random.key(0)))
    several = jax.tree.map(lambda x: jax.ShapeDtypeStruct((config.seeds, *x.shape), x.dtype), one)
    params = restore_checkpoint(checkpoint, {"params": several}, partial=True)["params"]
    index = 0 if seed is None else seed - config.first_seed
    return LoadedRun(config, config.build_policy(), jax.tree.map(lambda x: x[index], params), config.first_seed + index)


def choose_problems(task: Task, test_file: Path | None, count: int) -> Problems:
    """The first `count` problems of a test file, or as many held-out ones, in the order of a run's evaluations."""
    if test_file is not None:
        problems = task.read(test_file)
        return Problems(*(x[:count] for x in problems))
    problems = task.problems("test")
    rows = np.random.default_rng(0).permutation(len(problems.prompt))[:count]
    return Problems(*(x[rows] for x in problems))


def render_steps(task: Task, tokens: np.ndarray, step: np.ndarray) -> str:
    """The prompt and the state after each step, separated by blank lines.

    Args:
        tokens: (L,) completed. step: (L,) that filled a position, -1 where given.
    """
    pictures = [task.render(np.where(step < k, tokens, MASK)) for k in range(int(step.max()) + 2)]
    return "\n\n".join(pictures)
