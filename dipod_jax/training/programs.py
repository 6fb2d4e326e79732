"""The programs of a run as one value, which one function makes from a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax import envs
from dipod_jax.config import Config
from dipod_jax.envs import BatchedEnv
from dipod_jax.policies import Critic, Policy
from dipod_jax.training.distillation import distil, init_distiller
from dipod_jax.training.drift import control_beta, measure_drift
from dipod_jax.training.evaluation import EpisodeReturns, evaluate
from dipod_jax.training.hosts import place, to_host
from dipod_jax.training.learner import Learner
from dipod_jax.training.numbers import unless_diverged
from dipod_jax.training.rollout import rollout
from dipod_jax.training.sharding import DATA, SEED, Layout
from dipod_jax.training.state import EVALUATION, ActorState, LearnerState, TrainState, Tunables
from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.types import Metrics, Transition

EVALUATION_EPISODE_LENGTH = 1000

Act: TypeAlias = Callable[[LearnerState, ActorState], tuple[ActorState, Transition]]
Learn: TypeAlias = Callable[[LearnerState, Transition], tuple[LearnerState, Metrics]]
Measure: TypeAlias = Callable[[LearnerState, Transition], Metrics]
Distil: TypeAlias = Callable[[LearnerState, Transition], LearnerState]


@dataclass(frozen=True)
class Programs:
    """Environment, networks and programs of a config, over all its seeds at once.

    States are a `TrainState` with a leading seed axis (S, ...); the actor's leaves are (S, B, ...), transitions
    (S, T, B, ...), metrics (S,).
    """

    config: Config
    seeds: tuple[int, ...]
    layout: Layout
    env: BatchedEnv
    evaluation_env: BatchedEnv
    policy: Policy
    critic: Critic
    learner: Learner
    init_state: Callable[[jax.Array | np.ndarray], TrainState]
    act: Act
    """the actor is consumed"""
    learn: Learn
    """the learner is consumed"""
    measure: Measure | None
    """None where the drift is not measured"""
    distil: Distil | None
    """None where no phase is planned; the learner is consumed"""
    evaluate_chunk: Callable[[LearnerState, jax.Array], EpisodeReturns]
    chunk_size: int

    def init(self) -> TrainState:
        """A fresh state for every seed."""
        return self.init_state(np.asarray(self.seeds, np.uint32))

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of a state, for restoring one."""
        shapes = jax.eval_shape(self.init_state, jax.ShapeDtypeStruct((len(self.seeds),), jnp.uint32))
        place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        spread = lambda sharding, tree: jax.tree.map(lambda x: place(x, sharding), tree)
        return jax.tree.map(spread, state_shardings(self.layout), shapes, is_leaf=_is_sharding)

    def with_tunables(self, state: TrainState, tunables: Tunables) -> TrainState:
        """The same state under other hyper-parameters, () for all seeds alike or (S,) one each."""
        per_seed = lambda x: np.broadcast_to(np.asarray(x, np.float32), len(self.seeds))
        spread = place(jax.tree.map(per_seed, tunables), self.layout.sharding(SEED))
        return state._replace(learner=state.learner._replace(tunables=spread))

    def control_beta(self, learner: LearnerState, gap: np.ndarray) -> LearnerState:
        """The learner with beta moved by the gaps (S,) measured in nats per action."""
        beta = jnp.asarray(to_host(learner.tunables.beta))
        moved = control_beta(beta, jnp.asarray(gap), self.config.beta_control, self.env.action_size)
        return learner._replace(tunables=learner.tunables.with_beta(place(moved, self.layout.sharding(SEED))))

    def iterate(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Act, then learn: one iteration of every seed, with metrics (S,). The state is consumed."""
        actor, transitions = self.act(state.learner, state.actor)
        learner, metrics = self.learn(state.learner, transitions)
        return TrainState(learner, actor), metrics

    def evaluate(self, learner: LearnerState, num_episodes: int) -> EpisodeReturns:
        """Returns (S, E) of E episodes of each kind; the draws depend on seed, iteration and chunk.

        Episodes run in chunks of the smaller evaluation's size, so that one compiled program serves every E.
        """
        chunks = []
        for index in range(-(-num_episodes // self.chunk_size)):
            number = place(np.full(len(self.seeds), index, np.int32), self.layout.sharding(SEED))
            chunks.append(to_host(self.evaluate_chunk(learner, number)))
        return jax.tree.map(lambda *x: np.concatenate(x, axis=1)[:, :num_episodes], *chunks)

    def compile(self) -> Programs:
        """The same programs, compiled ahead of their first use; call it once."""
        if isinstance(self.act, jax.stages.Compiled):
            return self
        state = self.abstract_state()
        _, transitions = jax.eval_shape(self.act, state.learner, state.actor)
        acted = self.layout.sharding(SEED, None, DATA)
        transitions = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=acted), transitions)
        chunk = jax.ShapeDtypeStruct((len(self.seeds),), jnp.int32, sharding=self.layout.sharding(SEED))
        learned_from = (state.learner, transitions)
        arguments = {"learn": learned_from, "measure": learned_from, "distil": learned_from}
        arguments |= {"act": tuple(state), "evaluate_chunk": (state.learner, chunk)}
        jitted: dict[str, Any] = {n: p for n in arguments if (p := getattr(self, n)) is not None}
        return dataclasses.replace(self, **{n: p.lower(*arguments[n]).compile() for n, p in jitted.items()})


def state_shardings(layout: Layout) -> TrainState:
    """The layout of a state on the devices: one sharding for each part."""
    per_seed, per_env = layout.sharding(SEED), layout.sharding(SEED, DATA)
    env = envs.EnvState(per_env, per_seed, per_env, per_env, per_env, per_env, per_env)  # pyright: ignore
    return TrainState(per_seed, ActorState(env, per_env))  # pyright: ignore[reportArgumentType]


def _is_sharding(x: Any) -> bool:
    return isinstance(x, jax.sharding.Sharding)


def make_programs(config: Config, seeds: tuple[int, ...], layout: Layout | None = None) -> Programs:
    """Everything that a run of `config` calls, not compiled yet.

    Args:
        config: resolved: the backend is not "auto".
        seeds: S of them, each one run.
        layout: of arrays on the devices; `Layout.of` the config if None.
    """
    assert config.backend != "auto"
    layout = layout or Layout.of(config, len(seeds))
    episodes = min(config.evaluation.num_episodes, config.evaluation.num_episodes_during)
    chunk_size = -(-episodes // layout.shards) * layout.shards
    at_once = max(config.rollout.num_envs, 2 * chunk_size)  # an evaluation runs both kinds of episodes together
    most = at_once * len(seeds) // layout.mesh.size
    env = envs.make(
        config.task,
        config.backend,
        episode_length=config.rollout.episode_length,
        terminate_below=config.rollout.terminate_below,
        num_worlds=most,
        mesh=layout.env_mesh,
    )
    policy = config.policy.build(env.observation_size, env.action_size)
    critic = Critic(config.critic, env.observation_size)
    learner = Learner(config, policy, critic, layout)
    evaluation_env = env.with_length(EVALUATION_EPISODE_LENGTH)
    of_seed = _SeedPrograms(config, env, evaluation_env, policy, critic, learner, chunk_size)
    state, acted = state_shardings(layout), layout.sharding(SEED, None, DATA)
    per_seed = layout.sharding(SEED)
    jit = lambda function, **options: jax.jit(layout.over_seeds(function), **options)
    measured = config.drift.interval > 0 and config.policy.has_field
    return Programs(
        config=config,
        seeds=seeds,
        layout=layout,
        env=env,
        evaluation_env=evaluation_env,
        policy=policy,
        critic=critic,
        learner=learner,
        init_state=jit(of_seed.init, out_shardings=state),
        act=jit(of_seed.act, out_shardings=(state.actor, acted), donate_argnums=1),
        learn=jit(of_seed.learn, out_shardings=per_seed, donate_argnums=0),
        measure=jit(of_seed.measure, out_shardings=per_seed) if measured else None,
        distil=jit(of_seed.distil, out_shardings=per_seed, donate_argnums=0) if config.distillation.enabled else None,
        evaluate_chunk=jit(of_seed.evaluate, out_shardings=per_seed),
        chunk_size=chunk_size,
    )


@dataclass(frozen=True)
class _SeedPrograms:
    """One seed's programs, in global view."""

    config: Config
    env: BatchedEnv
    evaluation_env: BatchedEnv
    policy: Policy
    critic: Critic
    learner: Learner
    chunk_size: int

    def init(self, seed: jax.Array) -> TrainState:
        """A fresh state."""
        policy_key, critic_key, actor_key, learner_key = jax.random.split(jax.random.key(seed), 4)
        params = {"policy": self.policy.init(policy_key), "critic": self.critic.init(critic_key)}
        learner = LearnerState(
            params=params,
            optimizer=self.learner.optimizer.init(params),
            distiller=init_distiller(params["policy"]),
            reference=params["policy"] if self.config.needs_reference else None,
            obs_statistics=RunningStatistics.zeros(
                self.env.observation_size, clip=self.config.rollout.observation_clip
            ),
            tunables=Tunables.of(self.config),
            key=learner_key,
            iteration=jnp.zeros((), jnp.int32),
        )
        env_key, noise_key = jax.random.split(actor_key)
        num_envs = self.config.rollout.num_envs
        env = self.env.reset(env_key, num_envs, stagger=self.config.rollout.stagger)
        noise = jax.random.normal(noise_key, (num_envs, *self.policy.noise_shape))
        return TrainState(learner, ActorState(env, noise))

    def keys(self, learner: LearnerState) -> jax.Array:
        """Keys (4,) of this iteration: to act, to learn, to measure, to distil."""
        return jax.random.split(jax.random.fold_in(learner.key, learner.iteration), 4)

    def act(self, learner: LearnerState, actor: ActorState) -> tuple[ActorState, Transition]:
        """A rollout."""
        num_steps = self.config.rollout.num_steps
        return rollout(self.env, self.policy, self.config.policy, learner, actor, self.keys(learner)[0], num_steps)

    def learn(self, learner: LearnerState, transitions: Transition) -> tuple[LearnerState, Metrics]:
        """All updates on a rollout; none for a seed that has diverged."""
        after, metrics = self.learner.update(learner, transitions, self.keys(learner)[1])
        return unless_diverged(learner, after._replace(iteration=learner.iteration + 1)), metrics

    def measure(self, learner: LearnerState, transitions: Transition) -> Metrics:
        """The drift on a slice of a rollout that was not learned from yet."""
        num_samples = min(self.config.drift.num_samples, transitions.reward.size // 2 * 2)
        flow = self.policy.field
        assert flow is not None
        return measure_drift(self.learner, flow, learner, transitions, self.keys(learner)[2], num_samples)

    def distil(self, learner: LearnerState, transitions: Transition) -> LearnerState:
        """One phase of self-distillation."""
        flow = self.policy.field
        assert flow is not None
        options, layout = self.config.distillation, self.learner.layout
        return unless_diverged(learner, distil(options, flow, layout, learner, transitions, self.keys(learner)[3]))

    def evaluate(self, learner: LearnerState, chunk: jax.Array) -> EpisodeReturns:
        """Whole episodes."""
        key = jax.random.fold_in(jax.random.fold_in(learner.key, EVALUATION), learner.iteration)
        params, statistics = learner.params["policy"], learner.obs_statistics
        key = jax.random.fold_in(key, chunk)
        return evaluate(self.evaluation_env, self.policy, params, statistics, key, self.chunk_size)
