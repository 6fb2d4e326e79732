"""Training over V^L with exact gradients, or with Monte-Carlo bounds: DiPOD's Algorithm 2.

A batch of runs is one vmapped scan, in float64, and gives numpy curves with leading axes (run, record). Records are
`record_every` updates apart; the exact gap and cosine are measured there, whatever the method itself may see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dipod_jax.options import register_options
from dipod_jax.toys.bounds import Bounds, all_bounds, estimated_bounds, mask_draws
from dipod_jax.toys.methods import (
    add_weights,
    advantages,
    dipod_weights,
    exact_gradients,
    gradient_cosine,
    method_array,
    proxy_weights,
)
from dipod_jax.toys.options import Baseline, Estimator, Eubo, Optimizer
from dipod_jax.toys.space import Space, make_space, token_log_probs
from dipod_jax.types import Params

Array = jax.Array | np.ndarray
T = TypeVar("T")
_OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}


class Run(NamedTuple):
    """The settings that may differ between runs of one program; with a leading run axis R (numpy until training starts)
    a batch of runs."""

    proxy: jax.Array  # () index into `options.PROXIES`
    beta: jax.Array  # () weight of the regulariser, 0 without DiPOD
    reward: jax.Array  # (X,)
    seed: jax.Array  # () of the initialisation and of the Monte-Carlo draws
    num_updates: jax.Array  # () n: updates between two distillations of Algorithm 1; not read by Algorithm 2


@register_options
@dataclass(frozen=True)
class Settings:
    """The settings that runs of one program share; floats are data, so that changing them needs no new compilation."""

    model: nn.Module
    length: int
    vocab_size: int
    steps: int = 3000
    record_every: int = 30
    learning_rate: float = 0.5
    optimizer: Optimizer = "sgd"
    baseline: Baseline = "on-policy"
    eubo: Eubo = "spg"
    eubo_order: float = 1.5
    estimator: Estimator = "exact"
    num_draws: int = 1
    monotone: bool = False  # project every step so that, to first order, E_pi[EUBO - log pi] does not rise
    tolerance: float = 1e-3  # nats: Algorithm 1 stops distilling when E_ref[log pi_ref - ELBO] is below it

    @property
    def space(self) -> Space:
        return make_space(self.length, self.vocab_size)


class Curves(NamedTuple):
    """Exact measurements at every record, each (R, T)."""

    mean_gap: Array  # E_pi[log pi - ELBO]
    max_gap: Array  # over sequences
    upper_gap: Array  # E_pi[EUBO - log pi]
    expected_reward: Array
    gradient_cosine: Array  # the proxy gradient as the method sees it (without beta) against the true policy gradient
    distilling: Array  # share of the updates since the last record that were distillation (Algorithm 1)


def make_runs(methods: Sequence[str] | np.ndarray, betas: Any, rewards: Any, seeds: Any, num_updates: Any = 1) -> Run:
    """A batch of R runs, one for each method; the other arguments are one for all or R, `rewards` (X,) or (R, X).

    Raises:
      ValueError: for an unknown method.
    """
    proxy, has_dipod = np.array([method_array(str(method)) for method in methods]).reshape(-1, 2).T
    rewards = np.asarray(rewards, np.float64)
    count = len(proxy)
    columns: tuple[Any, ...] = (
        proxy.astype(np.int32),
        np.broadcast_to(np.asarray(betas, np.float64), count) * has_dipod,
        np.broadcast_to(rewards, (count, rewards.shape[-1])),
        np.broadcast_to(np.asarray(seeds), count),
        np.broadcast_to(np.asarray(num_updates, np.int32), count),
    )
    return Run(*columns)


def train(settings: Settings, runs: Run) -> Curves:
    """Every update ascends proxy + beta * regulariser (DiPOD, arXiv 2606.13795, eq. 7).

    Args:
      settings: the program. runs: R runs.

    Returns:
      Curves of numpy arrays (R, steps / record_every + 1); the first record is the initialisation.
    """
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _train(settings, runs))


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def _train(settings: Settings, run: Run) -> Curves:
    last_key = jax.random.fold_in(draw_key(run), settings.steps)  # whose draws no update has
    measure_fn = lambda params: measure(settings, run, params, last_key)
    return train_run(settings, run, init_params(settings, run), measure_fn)[0]


def train_run(settings: Settings, run: Run, params: Params, measure_fn: Callable[[Params], T]) -> tuple[T, Params]:
    """One run: the results of `measure_fn` at every record (T, ...), and the final parameters."""
    transform = _OPTIMIZERS[settings.optimizer](settings.learning_rate)

    def update(state, step):
        params, opt_state = state
        ascent = _direction(settings, run, params, jax.random.fold_in(draw_key(run), step))
        updates, opt_state = transform.update(jax.tree.map(jnp.negative, ascent), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    state = params, transform.init(params)
    curves, (params, _) = scan_records(settings, update, lambda state: measure_fn(state[0]), state)
    return curves, params


def init_params(settings: Settings, run: Run) -> Params:
    """The model's parameters at the run's seed."""
    return settings.model.init(jax.random.split(jax.random.key(run.seed))[0])


def draw_key(run: Run) -> jax.Array:
    """Key of the run's Monte-Carlo draws."""
    return jax.random.split(jax.random.key(run.seed))[1]


def scan_records(settings: Settings, update, measure_fn, state):
    """Alternate one measurement and `record_every` updates; the last record is of the state after all updates."""
    num_records = settings.steps // settings.record_every

    def record(state, index):
        measured = measure_fn(state)
        # No updates after the last record. A trip count that is data keeps a second copy of `measure_fn` uncompiled.
        count = jnp.where(index < num_records, settings.record_every, 0)
        start = index * settings.record_every
        return jax.lax.fori_loop(0, count, lambda offset, state: update(state, start + offset), state), measured

    state, curves = jax.lax.scan(record, state, jnp.arange(num_records + 1))
    return curves, state


def exact_bounds_fn(settings: Settings) -> Callable[[Params], Bounds]:
    """params -> exact Bounds of (X,)."""

    def bounds_fn(params: Params) -> Bounds:
        return all_bounds(settings.model.apply(params), settings.space, settings.eubo, settings.eubo_order)  # pyright: ignore[reportArgumentType]

    return bounds_fn


def seen_bounds_fn(settings: Settings, key: jax.Array) -> Callable[[Params], Bounds]:
    """params -> Bounds as the method sees them: exact log-likelihood, estimated ELBO and EUBO on shared masks."""
    if settings.estimator == "exact":
        return exact_bounds_fn(settings)
    space = settings.space
    draws, weight = mask_draws(key, settings.estimator, settings.num_draws, space)

    def bounds_fn(params: Params) -> Bounds:
        log_probs = token_log_probs(settings.model.apply(params), space)  # pyright: ignore[reportArgumentType]
        return estimated_bounds(log_probs, draws, weight, settings.eubo_order)

    return bounds_fn


def _direction(settings: Settings, run: Run, params: Params, key: jax.Array) -> Params:
    """Direction of ascent of one update."""
    bounds, pullback = jax.vjp(seen_bounds_fn(settings, key), params)
    advantage = advantages(bounds.prob, run.reward, settings.baseline)
    weights = proxy_weights(run.proxy, bounds, advantage)
    (ascent,) = pullback(add_weights(weights, dipod_weights(bounds, bounds.prob), run.beta))
    if settings.monotone:
        # Of E_pi[EUBO - log pi], whose expectation moves with pi.
        (rise,) = pullback(Bounds(bounds.prob * (bounds.upper_gap - 1.0), jnp.zeros_like(bounds.prob), bounds.prob))
        ascent = without_rise(ascent, rise)
    return ascent


def without_rise(direction: Params, rise: Params) -> Params:
    """Remove from `direction` its component along `rise` where the two agree, so that nothing rises to first order."""
    square = jnp.asarray(optax.tree.vdot(rise, rise))
    share = jnp.maximum(optax.tree.vdot(direction, rise), 0.0) / jnp.where(square > 0, square, 1.0)
    return jax.tree.map(lambda g, h: g - share * h, direction, rise)


def measure(settings: Settings, run: Run, params: Params, key: jax.Array, distilling: Array | float = 0.0) -> Curves:
    """The exact state of one run; the proxy gradient is the method's own, from the draws of `key`."""
    at = lambda bounds_fn: exact_gradients(bounds_fn, params, run.proxy, run.reward, settings.baseline)
    exact = at(exact_bounds_fn(settings))
    seen = exact if settings.estimator == "exact" else at(seen_bounds_fn(settings, key))
    bounds = exact.bounds
    return Curves(
        mean_gap=bounds.prob @ bounds.lower_gap,
        max_gap=jnp.max(bounds.lower_gap),
        upper_gap=bounds.prob @ bounds.upper_gap,
        expected_reward=bounds.prob @ run.reward,
        gradient_cosine=gradient_cosine(seen.proxy, exact.policy),
        distilling=jnp.asarray(distilling),
    )
