"""Post-training of a masked diffusion: one iteration of sampling and learning, over all seeds at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dipod_jax.language.config import LanguageConfig, built_in_beta, to_json
from dipod_jax.language.evaluation import Accuracy, evaluate
from dipod_jax.language.measurement import Samples, measure_drift
from dipod_jax.language.task import Problems
from dipod_jax.objectives import Objective
from dipod_jax.options import as_arrays
from dipod_jax.policies.masked import MaskedPolicy
from dipod_jax.training.sharding import over_seeds
from dipod_jax.types import Metrics, Params, Scores, matched

# What a seed's key is folded with for streams apart from training's, whose iterations stay below 2**31.
EVALUATION = 2**31 + 1
MEASUREMENT = 2**31 + 3
# Options that are data in a program, or that the loop alone reads.
DATA = {"learning_rate", "advantage_shift", "num_iterations"}
LOOP = {"objective", "method", "beta", "beta_control", "first_seed", "measure", "pretraining", "pretrained"}
LOOP |= {"test_file", "cache", "out", "checkpoint_interval"}


class Tunables(NamedTuple):
    """Hyper-parameters that are data: one compiled program serves a sweep. All leaves () float32."""

    objective: Objective
    beta: jax.Array  # with what the method's own code adds
    learning_rate: jax.Array
    advantage_shift: jax.Array

    @classmethod
    def of(cls, config: LanguageConfig) -> Tunables:
        """The config's values."""
        beta = config.beta_control.initial if config.beta == "auto" else config.beta
        rate, shift = config.learning.learning_rate, config.learning.advantage_shift
        objective: Objective = as_arrays(config.objective)
        return cls(objective, jnp.float32(beta + built_in_beta(config)), jnp.float32(rate), jnp.float32(shift))


class RunState(NamedTuple):
    """Everything between two iterations of one seed; arrays only."""

    params: Params
    optimizer: Any
    reference: Params | None  # the pretrained policy, where the objective compares with it
    tunables: Tunables
    key: jax.Array  # of the seed
    iteration: jax.Array  # () int32


@dataclass(frozen=True)
class Programs:
    """The programs of a config. States have a leading seed axis (S, ...), metrics (S,)."""

    policy: MaskedPolicy
    init: Callable[[Params, jax.Array, Tunables], RunState]
    """pretrained parameters, seeds (S,), tunables -> states"""
    iterate: Callable[[RunState], tuple[RunState, Metrics]]
    """the state is consumed"""
    measure: Callable[[RunState], Metrics] | None
    """None if the drift is not measured"""
    evaluate: Callable[[RunState, Problems], Accuracy]


def program_key(config: LanguageConfig) -> str:
    """The same for configs that one program serves: they differ in `Tunables`, in the seeds but not in their number, in
    length, in folders and in what the loop does beside training."""
    values = to_json(config)
    options = {name: value for name, value in values.items() if name not in LOOP}
    options["learning"] = {name: value for name, value in values["learning"].items() if name not in DATA}
    structure = str(jax.tree.structure(config.objective))
    return json.dumps([structure, config.measures_drift, config.measure.drift_prompts, options], sort_keys=True)


def make_programs(config: LanguageConfig) -> Programs:
    """Programs of a config, ready to be compiled; they serve every config that differs in `Tunables` and seeds only."""
    learner = Learner(config)
    over_seeds = lambda fn: jax.jit(lambda state: _map_seeds(fn, state))
    return Programs(
        policy=learner.policy,
        init=jax.jit(jax.vmap(learner.init, in_axes=(None, 0, None))),
        iterate=jax.jit(lambda state: _map_seeds(learner.iterate, state), donate_argnums=0),
        measure=over_seeds(learner.measure) if config.measures_drift else None,
        evaluate=jax.jit(
            lambda state, problems: _map_seeds(lambda one: learner.evaluate(one, problems), state),
        ),
    )


def _map_seeds(fn, state: RunState):
    """`fn` of each seed's state, as control maps over seeds; of one alone without a loop."""
    if state.iteration.shape[0] == 1:
        return jax.tree.map(lambda x: x[None], fn(jax.tree.map(lambda x: x[0], state)))
    return over_seeds(fn)(state)


class Learner:
    """One seed's iteration, as pure functions of its state."""

    def __init__(self, config: LanguageConfig):
        self.config, self.task, self.policy = config, config.problems, config.build_policy()
        self.train = jax.tree.map(jnp.asarray, config.problems.problems("train"))
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(config.learning.gradient_clip), optax.scale_by_adam(b1=0.9, b2=0.99)
        )

    def init(self, params: Params, seed: jax.Array, tunables: Tunables) -> RunState:
        """A fresh state that starts at `params`."""
        reference = params if self.config.needs_reference else None
        key = jax.random.key(seed)
        return RunState(params, self.optimizer.init(params), reference, tunables, key, jnp.zeros((), jnp.int32))

    def sample(self, params: Params, key: jax.Array, num_prompts: int) -> tuple[Samples, Metrics]:
        """Groups of answers to random training prompts, (P G, ...), their advantages and their rewards."""
        rows_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(rows_key, (num_prompts,), 0, len(self.train.prompt))
        group = self.config.learning.samples_per_prompt
        prompt, answer = (jnp.repeat(x[rows], group, axis=0) for x in self.train)
        noise = jax.random.normal(noise_key, (len(prompt), *self.policy.noise_shape))
        action, trace = self.policy.sample(params, prompt, noise)
        reward = self.task.reward(prompt, answer, action)
        advantage = group_advantage(reward, group)
        metrics = {
            "reward": reward.mean(),
            "accuracy": self.task.solved(prompt, answer, action).mean(),
            "validity": self.task.well_formed(prompt, answer, action).mean(),
            "advantage_size": jnp.abs(advantage).mean(),
        }
        return Samples(prompt, action, trace, advantage), metrics

    def iterate(self, state: RunState) -> tuple[RunState, Metrics]:
        """Sample, distil if it is due, then take `inner_updates` gradient steps on these samples."""
        options = self.config.learning
        sample_key, mask_key, distil_key = jax.random.split(jax.random.fold_in(state.key, state.iteration), 3)
        samples, metrics = self.sample(state.params, sample_key, options.num_prompts)
        params, optimizer, acting = state.params, state.optimizer, state.params
        if options.distillation_interval > 0:
            due = (state.iteration + 1) % options.distillation_interval == 0
            params = jax.lax.cond(due, lambda p: self._distil(p, samples, state, distil_key), lambda p: p, params)
            acting = params
        shared = self._evidence(acting, samples, mask_key)
        old = None if options.fresh_masks else self._score(acting, samples, shared)

        def update(carry, key):
            evidence = self._evidence(acting, samples, key) if options.fresh_masks else shared
            before = self._score(acting, samples, evidence) if old is None else old
            return self._step(carry, samples, evidence, before, state)

        keys = jax.random.split(mask_key, options.inner_updates)
        (params, optimizer), steps = jax.lax.scan(update, (params, optimizer), keys)
        metrics |= {name: _summarise(name, values) for name, values in steps.items()} | {"beta": state.tunables.beta}
        return state._replace(params=params, optimizer=optimizer, iteration=state.iteration + 1), metrics

    def _evidence(self, acting: Params, samples: Samples, key: jax.Array):
        return self.policy.prepare(acting, key, samples.prompt, samples.trace)

    def _score(self, params: Params, samples: Samples, evidence) -> Scores:
        return self.policy.score(params, samples.prompt, samples.action, evidence)

    def _step(self, carry, samples: Samples, evidence, old: Scores, state: RunState):
        """One gradient step of objective + beta * negative ELBO."""
        params, optimizer = carry
        loss_fn = lambda p: self.loss(p, samples, evidence, old, state)
        (_, metrics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, optimizer = self.optimizer.update(gradient, optimizer)
        params = optax.apply_updates(params, optax.tree.scale(-state.tunables.learning_rate, updates))
        return (params, optimizer), metrics | {"gradient_norm": optax.global_norm(gradient)}

    def loss(
        self, params: Params, samples: Samples, evidence, old: Scores, state: RunState, *, beta: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The objective on shaped advantages, and DiPOD's term unless `beta` is False."""
        new = self._score(params, samples, evidence)
        reference = None
        if state.reference is not None:
            reference = jax.lax.stop_gradient(self._score(state.reference, samples, evidence))
        advantage = self._shape(samples.advantage) + state.tunables.advantage_shift
        loss, metrics = self._of_groups(state.tunables.objective, *matched(new, old), reference, advantage)
        assert new.bound is not None
        metrics = metrics | {"policy_loss": loss, "negative_elbo": new.bound.mean()}
        return loss + (state.tunables.beta * new.bound.mean() if beta else 0.0), metrics

    def _of_groups(
        self, objective: Objective, new: Scores, old: Scores, reference: Scores | None, advantage: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """The objective's mean over groups: the softmax of `wd1` and `dmpo` is over the answers to one prompt."""
        group = self.config.learning.samples_per_prompt
        grouped = lambda x: x.reshape(-1, group, *x.shape[1:])

        def split(scores: Scores) -> Scores:
            draws = jnp.broadcast_to(scores.weight, (len(advantage) // group, *scores.weight.shape))
            return jax.tree.map(grouped, scores._replace(weight=None))._replace(weight=draws)

        compared = None if reference is None else split(reference)
        found = jax.vmap(objective)(split(new), split(old), compared, grouped(advantage))
        return jax.tree.map(jnp.mean, found)

    def _shape(self, advantage: jax.Array) -> jax.Array:
        kind = self.config.learning.advantages
        if kind == "none":
            return jnp.zeros_like(advantage)
        return jnp.maximum(advantage, 0.0) if kind == "positive" else advantage

    def _distil(self, params: Params, samples: Samples, state: RunState, key: jax.Array) -> Params:
        """Maximise the ELBO of samples that are still the policy's own (DiPOD, arXiv 2606.13795, Algorithm 1)."""

        def update(carry, key):
            params, optimizer = carry
            evidence = self._evidence(params, samples, key)
            gradient = jax.grad(lambda p: self._score(p, samples, evidence).bound.mean())(params)  # pyright: ignore
            updates, optimizer = self.optimizer.update(gradient, optimizer)
            scaled = optax.tree.scale(-state.tunables.learning_rate, updates)
            return (optax.apply_updates(params, scaled), optimizer), None

        keys = jax.random.split(key, self.config.learning.distillation_steps)
        return jax.lax.scan(update, (params, self.optimizer.init(params)), keys)[0][0]

    def measure(self, state: RunState) -> Metrics:
        """The exact drift on samples drawn for the purpose (`dipod_jax.language.measurement`)."""
        key = jax.random.fold_in(jax.random.fold_in(state.key, MEASUREMENT), state.iteration)
        sample_key, mask_key = jax.random.split(key)
        samples, _ = self.sample(state.params, sample_key, self.config.measure.drift_prompts)
        evidence = self._evidence(state.params, samples, mask_key)
        old = jax.lax.stop_gradient(self._score(state.params, samples, evidence))
        loss_fn = lambda p: self.loss(p, samples, evidence, old, state, beta=False)[0]
        return measure_drift(self.policy, state.params, samples, loss_fn)

    def evaluate(self, state: RunState, problems: Problems) -> Accuracy:
        """Accuracy on problems, greedy, sampled and in random order."""
        key = jax.random.fold_in(jax.random.fold_in(state.key, EVALUATION), state.iteration)
        return evaluate(self.policy, self.task, state.params, problems, key)


def group_advantage(reward: jax.Array, group: int) -> jax.Array:
    """(B,) reward minus the mean of its group of `group` consecutive samples; not divided by a standard deviation."""
    grouped = reward.reshape(-1, group)
    return (grouped - grouped.mean(-1, keepdims=True)).reshape(-1)


def _summarise(name: str, values: jax.Array) -> jax.Array:
    """Summarise the values (mu,) of the inner updates: the first if only the first is meaningful, else the mean."""
    return values[0] if name == "first_ratio_error" else values.mean()
