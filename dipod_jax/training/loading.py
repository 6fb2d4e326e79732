"""A trained policy, from nothing but its run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.config import Config
from dipod_jax.policies import Policy
from dipod_jax.runs import CheckpointError, RunFolder, find_checkpoint, restore_checkpoint, saved_shapes
from dipod_jax.serialisation import trained_config
from dipod_jax.training.evaluation import make_act
from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.types import Params

ActFn = Callable[[jax.Array, jax.Array], jax.Array]


class TrainedPolicy(NamedTuple):
    """One seed's policy: its network, parameters and observation statistics."""

    config: Config
    policy: Policy
    params: Params
    statistics: RunningStatistics


class _Learner(NamedTuple):
    """The branches of a checkpoint that acting needs, under the names they were saved by."""

    params: dict[str, Params]
    obs_statistics: RunningStatistics


class _State(NamedTuple):
    learner: _Learner


@jax.enable_x64(False)  # trained in single precision, whatever the caller computes in
def restore_policy(run_dir: str | Path, seed: int | None = None, which: str = "latest") -> TrainedPolicy:
    """Read a policy of a run.

    Args:
        run_dir: a run folder.
        seed: which of the run's seeds; its first where None.
        which: "latest", or "best" for the one with the seed's highest evaluation return. That return is high partly by
            chance: evaluate the policy again before you report it.

    Raises:
        RunFolderError, CheckpointError: not a run folder, or no checkpoint that is whole.
        ValueError: a seed that the run did not train, or another `which`.
    """
    folder = RunFolder.open(Path(run_dir))
    config = trained_config(folder, seed)
    seeds = config.all_seeds
    checkpoint = find_checkpoint(folder.checkpoints, which)
    if checkpoint is None:
        raise CheckpointError(
            f"{run_dir} holds no complete checkpoint yet; let the run go on, or continue it with --resume"
        )
    shapes = saved_shapes(checkpoint)
    observation_size = shapes[".learner.obs_statistics.mean"][-1]
    policy = config.policy.build(observation_size, action_size=shapes[".actor.base_noise"][-1])
    one_seed = _State(
        _Learner(
            {"policy": jax.eval_shape(policy.init, jax.random.key(0))},
            jax.eval_shape(lambda: RunningStatistics.zeros(observation_size, clip=config.rollout.observation_clip)),
        )
    )
    stack = lambda x: jax.ShapeDtypeStruct((len(seeds), *x.shape), x.dtype)
    state = restore_checkpoint(checkpoint, jax.tree.map(stack, one_seed), partial=True)
    index = 0 if seed is None else seeds.index(seed)
    learner = jax.tree.map(lambda x: x[index], state.learner)
    return TrainedPolicy(config, policy, learner.params["policy"], learner.obs_statistics)


def load_policy(run_dir: str | Path, seed: int | None = None, which: str = "latest") -> ActFn:
    """`act(obs, key)` of a trained policy, jitted.

    Args:
        run_dir: a run folder; nothing else is needed, not even Playground.
        seed: which of the run's seeds; its first where None.
        which: "latest" or "best", as in `restore_policy`.

    Returns:
        `act(obs (..., O), key) -> action (..., d)` in (-1, 1); the key draws the base noise, independent for each row.
        For the noise-free action use `restore_policy`. Single precision, also under JAX_ENABLE_X64 and on a GPU or TPU.

    Raises:
        RunFolderError, CheckpointError, ValueError: as `restore_policy`.
    """
    trained = restore_policy(run_dir, seed, which)
    act = make_act(trained.policy, trained.params, trained.statistics)

    @jax.jit
    def act_with_key(obs: jax.Array, key: jax.Array) -> jax.Array:
        return act(obs, jax.random.normal(key, (*obs.shape[:-1], *trained.policy.noise_shape)))

    @jax.enable_x64(False)
    def act_in_single_precision(obs: jax.Array, key: jax.Array) -> jax.Array:
        return act_with_key(jnp.asarray(obs, jnp.float32), key)

    return act_in_single_precision
