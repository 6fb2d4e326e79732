"""The compiled programs of a run: one iteration and one evaluation, over seeds and devices.

Devices form a mesh ("seed", "data"): seeds are spread over devices where that divides, else one seed's environments
are, with gradients averaged. A CPU is as many devices as it has cores, so that one seed uses them all without waiting
for threads inside each small operation, and several seeds never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dipod_jax import envs
from dipod_jax.config import Config
from dipod_jax.objectives import make_objective
from dipod_jax.policies import Critic, FlowPolicy, make_policy
from dipod_jax.training.distillation import distil, init_distiller
from dipod_jax.training.drift import control_beta, measure_drift
from dipod_jax.training.evaluation import EpisodeReturns, evaluate
from dipod_jax.training.learner import Learner
from dipod_jax.training.rollout import rollout
from dipod_jax.training.state import (
    EVALUATION,
    METER,
    ActorState,
    LearnerState,
    TrainState,
    Transitions,
    Tunables,
)
from dipod_jax.training.statistics import RunningStatistics

DATA, SEED = "data", "seed"
EVALUATION_EPISODE_LENGTH = 1000
MIN_ENVS_PER_DEVICE = 16  # below, a device spends its time on the overhead of small operations


def make_mesh(num_seeds: int, config: Config) -> Mesh:
    """Spread seeds over devices where their number divides, else one seed's environments where that divides."""
    devices = np.array(jax.devices())
    if num_seeds % len(devices) == 0:
        shape = (len(devices), 1)
    else:
        learning, num_envs = config.learning, config.rollout.num_envs
        columns = learning.minibatch_size // (learning.unroll_length if learning.advantages == "minibatch" else 1)
        most = max(1, min(len(devices), num_envs // MIN_ENVS_PER_DEVICE))
        shape = (1, max(n for n in range(1, most + 1) if num_envs % n == 0 and columns % n == 0))
    used = devices[: shape[0] * shape[1]].reshape(shape)
    return Mesh(used, (SEED, DATA), axis_types=(AxisType.Auto, AxisType.Auto))


class Trainer:
    """Environment, networks and objective of a config, and the compiled programs over them.

    State is a `TrainState` with a leading seed axis (S, ...); the actor's leaves are (S, B, ...).
    """

    def __init__(self, config: Config, seeds: tuple[int, ...]):
        self.config, self.seeds, self._compiled = config, seeds, False
        self.mesh = make_mesh(len(seeds), config)
        self.shards = self.mesh.shape[DATA]
        assert config.backend != "auto"
        self.env = envs.make(config.task, config.backend, episode_length=config.rollout.episode_length)
        self.evaluation_env = envs.make(config.task, config.backend, episode_length=EVALUATION_EPISODE_LENGTH)
        self.policy = make_policy(config, self.env.observation_size, self.env.action_size)
        self.critic = Critic(config.critic, self.env.observation_size)
        self.learner = Learner(config, self.policy, self.critic, make_objective(config), DATA, self.shards)
        per_seed, per_env = PartitionSpec(SEED), PartitionSpec(SEED, DATA)
        self._specs = TrainState(learner=per_seed, actor=per_env)  # pyright: ignore[reportArgumentType]
        shard = partial(jax.shard_map, mesh=self.mesh, check_vma=False)
        self._init = jax.jit(shard(self._over_seeds(self._init_seed), in_specs=per_seed, out_specs=self._specs))
        acted = PartitionSpec(SEED, None, DATA)  # (S, T, B, ...)
        self.act = jax.jit(
            shard(self._over_seeds(self._act_seed), in_specs=(per_seed, per_env), out_specs=(per_env, acted)),
            donate_argnums=1,
        )
        learner_program = partial(shard, in_specs=(per_seed, acted))
        self.learn = jax.jit(
            learner_program(self._over_seeds(self._learn_seed), out_specs=(per_seed, per_seed)), donate_argnums=0
        )
        self.distil = jax.jit(
            learner_program(self._over_seeds(self._distil_seed), out_specs=per_seed), donate_argnums=0
        )
        self.measure = jax.jit(learner_program(self._over_seeds(self._measure_seed), out_specs=per_seed))
        evaluation = config.evaluation
        self._chunk = -(-min(evaluation.num_episodes, evaluation.num_episodes_during) // self.shards)
        self._evaluate = jax.jit(
            shard(self._over_seeds(self._evaluate_seed), in_specs=(per_seed, per_seed), out_specs=per_env)
        )

    def init(self) -> TrainState:
        """A fresh state for every seed."""
        return self._init(jnp.asarray(self.seeds, jnp.uint32))

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of a state, for restoring one."""
        shapes = jax.eval_shape(self._init, jax.ShapeDtypeStruct((len(self.seeds),), jnp.uint32))
        place = lambda spec: lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec))
        return TrainState(
            learner=jax.tree.map(place(self._specs.learner), shapes.learner),
            actor=jax.tree.map(place(self._specs.actor), shapes.actor),
        )

    def with_tunables(self, state: TrainState, tunables: Tunables) -> TrainState:
        """The same state under other hyper-parameters, () for all seeds alike or (S,) one each."""
        spread = jax.tree.map(
            lambda new, old: jax.device_put(jnp.full_like(old, new), old.sharding), tunables, state.learner.tunables
        )
        return state._replace(learner=state.learner._replace(tunables=spread))

    def control_beta(self, learner: LearnerState, gap: np.ndarray) -> LearnerState:
        """The learner with beta moved by the gaps (S,) measured in nats per action."""
        beta = learner.tunables.beta
        moved = control_beta(beta, jnp.asarray(gap), self.config.beta_control, self.env.action_size)
        return learner._replace(tunables=learner.tunables._replace(beta=jax.device_put(moved, beta.sharding)))

    @property
    def measures_drift(self) -> bool:
        """Whether the drift meter runs: it measures a flow policy's bound against its exact likelihood."""
        return self.config.drift.interval > 0 and isinstance(self.policy, FlowPolicy)

    def iterate(self, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        """Act, then learn: one iteration of every seed, with metrics (S,). The state is consumed."""
        actor, transitions = self.act(state.learner, state.actor)
        learner, metrics = self.learn(state.learner, transitions)
        return TrainState(learner, actor), metrics

    def compile(self) -> None:
        """Compile every program of the run ahead of its first use; once."""
        if self._compiled:
            return
        self._compiled = True
        state = self.abstract_state()
        _, transitions = jax.eval_shape(self.act, state.learner, state.actor)
        place = NamedSharding(self.mesh, PartitionSpec(SEED, None, DATA))
        transitions = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), transitions)
        chunks = jax.ShapeDtypeStruct(
            (len(self.seeds),), jnp.int32, sharding=NamedSharding(self.mesh, PartitionSpec(SEED))
        )
        arguments = {"learn": (state.learner, transitions), "_evaluate": (state.learner, chunks), "act": state}
        if self.measures_drift:
            arguments["measure"] = (state.learner, transitions)
        if self.config.distillation.enabled:
            arguments["distil"] = (state.learner, transitions)
        for name, args in arguments.items():
            setattr(self, name, getattr(self, name).lower(*args).compile())

    def evaluate(self, learner: LearnerState, num_episodes: int) -> EpisodeReturns:
        """Returns (S, E) of E episodes of each kind; the draws depend on seed, iteration, number of devices and chunk.

        Episodes run in chunks of the smaller evaluation's size, so that one compiled program serves every E.
        """
        sharding = NamedSharding(self.mesh, PartitionSpec(SEED))
        chunks = []
        for index in range(-(-num_episodes // (self._chunk * self.shards))):
            number = jax.device_put(np.full(len(self.seeds), index, np.int32), sharding)
            chunks.append(jax.device_get(self._evaluate(learner, number)))
        return jax.tree.map(lambda *x: np.concatenate(x, axis=1)[:, :num_episodes], *chunks)

    def _over_seeds(self, function: Callable) -> Callable:
        """Map over the local seeds: one vmapped program on an accelerator, one after the other on a CPU core."""
        if jax.default_backend() == "cpu":
            return lambda *args: jax.lax.map(lambda a: function(*a), args)
        return jax.vmap(function)

    def _init_seed(self, seed: jax.Array) -> TrainState:
        key = jax.random.key(seed)
        policy_key, critic_key, actor_key, learner_key = jax.random.split(key, 4)
        params = {"policy": self.policy.init(policy_key), "critic": self.critic.init(critic_key)}
        learner = LearnerState(
            params=params,
            optimizer=self.learner.init_optimizer(params),
            distiller=init_distiller(params["policy"]),
            obs_statistics=RunningStatistics.zeros(self.env.observation_size),
            tunables=Tunables.of(self.config),
            key=learner_key,
            iteration=jnp.zeros((), jnp.int32),
        )
        env_key, noise_key = jax.random.split(jax.random.fold_in(actor_key, jax.lax.axis_index(DATA)))
        num_envs = self.config.rollout.num_envs // self.shards
        return TrainState(
            learner,
            ActorState(
                env=self.env.reset(env_key, num_envs, stagger=self.config.rollout.stagger),
                base_noise=jax.random.normal(noise_key, (num_envs, self.env.action_size)),
            ),
        )

    def _keys(self, learner: LearnerState) -> jax.Array:
        """Keys (4,) of this iteration on this shard: to act, to learn, to measure, to distil."""
        key = jax.random.fold_in(jax.random.fold_in(learner.key, learner.iteration), jax.lax.axis_index(DATA))
        return jax.random.split(key, 4)

    def _act_seed(self, learner: LearnerState, actor: ActorState) -> tuple[ActorState, Transitions]:
        num_steps = self.config.rollout.num_steps
        return rollout(self.env, self.policy, self.config.policy, learner, actor, self._keys(learner)[0], num_steps)

    def _learn_seed(self, learner: LearnerState, transitions: Transitions) -> tuple[LearnerState, dict[str, jax.Array]]:
        learner, metrics = self.learner.update(learner, transitions, self._keys(learner)[1])
        return learner._replace(iteration=learner.iteration + 1), metrics

    def _measure_seed(self, learner: LearnerState, transitions: Transitions) -> dict[str, jax.Array]:
        assert isinstance(self.policy, FlowPolicy)
        num_local = -(-self.config.drift.num_samples // (2 * self.shards)) * 2  # the meter halves its batch
        num_local = min(num_local, transitions.reward.size // 2 * 2)
        # What all shards share is apart from their own streams.
        shared = jax.random.fold_in(jax.random.fold_in(learner.key, METER), learner.iteration)
        keys = self._keys(learner)[2], shared
        return measure_drift(self.learner, self.policy, learner, transitions, *keys, num_local, DATA)

    def _distil_seed(self, learner: LearnerState, transitions: Transitions) -> LearnerState:
        assert isinstance(self.policy, FlowPolicy)
        return distil(self.config.distillation, self.policy, learner, transitions, self._keys(learner)[3], DATA)

    def _evaluate_seed(self, learner: LearnerState, chunk: jax.Array) -> EpisodeReturns:
        key = jax.random.fold_in(jax.random.fold_in(learner.key, EVALUATION), learner.iteration)
        key = jax.random.fold_in(jax.random.fold_in(key, chunk), jax.lax.axis_index(DATA))
        params, statistics = learner.params["policy"], learner.obs_statistics
        return evaluate(self.evaluation_env, self.policy, params, statistics, key, self._chunk)
