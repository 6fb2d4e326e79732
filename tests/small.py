"""A training configuration as small as it gets, on a task whose optimum is known, and how states are compared."""

from __future__ import annotations

from dataclasses import replace

import jax
import pytest
from numpy.testing import assert_array_equal
from probe_tasks import TargetTask

from dipod_jax import envs
from dipod_jax.config import Config, DriftConfig, EvaluationConfig, LearningConfig, RolloutConfig
from dipod_jax.envs import BatchedEnv
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.objectives.fpo import Fpo
from dipod_jax.policies import POLICIES
from dipod_jax.policies.critic import CriticOptions
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.training import programs as programs_module
from dipod_jax.training.programs import Programs, make_programs

EPISODE = 10
LEARN = dict(learning_rate=3e-3, minibatch_size=128, num_epochs=4, advantages="iteration", reward_scale=1.0)
BASE = Config(
    Fpo(clip_epsilon=0.05, negative_advantages="spo", log_ratio_clip=3.0),
    FlowOptions(hidden_sizes=(16, 16), num_steps=4, num_draws=4, action_clip=1.5),
    backend="native",
    preset="smoke",
    critic=CriticOptions(hidden_sizes=(16,)),
    rollout=RolloutConfig(num_envs=64, num_steps=8, episode_length=EPISODE, stagger=True),
    learning=LearningConfig(**LEARN, discount=0.9, policy_gradient_clip=1.0),
    evaluation=EvaluationConfig(num_episodes=6, num_episodes_during=4),
    drift=DriftConfig(interval=0),
)
# Too small to be spread over devices; advantages as in the FPO code.
TINY = replace(
    BASE,
    rollout=replace(BASE.rollout, num_envs=16),
    learning=replace(BASE.learning, advantages="minibatch", unroll_length=4, minibatch_size=64),
)


def probe_programs(config: Config = BASE, seeds: tuple[int, ...] = (0,), task=TargetTask) -> Programs:
    """Programs over a probe task, whatever the config's task is called."""
    with pytest.MonkeyPatch.context() as patch:
        make = lambda name, backend, *, episode_length, terminate_below, num_worlds, mesh: BatchedEnv(
            task(), episode_length, mesh, terminate_below=terminate_below
        )
        patch.setattr(envs, "make", make)
        patch.setattr(programs_module, "EVALUATION_EPISODE_LENGTH", EPISODE)
        return make_programs(config, seeds)


def of_objective(name: str, config: Config = BASE) -> Config:
    """A config for another objective, its default options and those of the config that its policy family has."""
    cls = OBJECTIVES[name]
    family = POLICIES[cls.policy]
    options = {n: v for n, v in vars(config.policy).items() if n in family.__dataclass_fields__}
    if cls.exact_action:
        options |= {"action_clip": None} if "action_clip" in options else {}
    return replace(config, objective=cls(), policy=family(**options | cls.policy_defaults))


def copy(tree):
    return jax.tree.map(lambda x: x.copy(), tree)


def is_key(x):
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def as_numbers(tree):
    """The same with the bits of keys in place of keys."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)


def assert_same_bits(a, b):
    jax.tree.map(assert_array_equal, as_numbers(a), as_numbers(b))
