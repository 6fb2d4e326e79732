"""Training over V^L with exact gradients, or with Monte-Carlo bounds: Algorithm 2 and Algorithm 1.

Each entry point trains a batch of runs as one vmapped scan, in float64, and returns numpy curves with leading axes
(run, record). Records are `record_every` updates apart; the exact gap and cosine are measured there, whatever the
method itself may see.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.tinydiffusion.bounds import all_bounds, token_log_probs
from dipod_jax.tinydiffusion.estimators import estimated_elbo, estimated_eubo, sample_draws
from dipod_jax.tinydiffusion.space import Space, make_space
from dipod_jax.twotoken.bounds import Bounds
from dipod_jax.twotoken.objectives import (
    advantages,
    cosine,
    dipod_weights,
    method_array,
    policy_gradient_weights,
    proxy_weights,
)

Array = jax.Array | np.ndarray


class Runs(NamedTuple):
    """What may differ between runs of one program; leading run axis R everywhere (numpy until training starts)."""

    proxy: jax.Array  # (R,) index into PROXIES
    beta: jax.Array  # (R,) weight of the regulariser, 0 without DiPOD
    reward: jax.Array  # (R, X)
    seed: jax.Array  # (R,) of the initialisation and of the Monte-Carlo draws
    num_updates: jax.Array  # (R,) n: updates between two distillations of Algorithm 1; not read by Algorithm 2


class Settings(NamedTuple):
    """What is compiled into the program, and so shared by its runs."""

    model: nn.Module
    length: int
    vocab_size: int
    steps: int = 3000
    record_every: int = 30
    learning_rate: float = 0.5
    baseline: str = "on-policy"
    eubo: str = "spg"
    eubo_order: float = 1.5
    estimator: str = "exact"
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


def make_runs(methods, betas, rewards, seeds, num_updates: int | np.ndarray = 1) -> Runs:
    """One run for each tuple of the broadcast arguments; `rewards` is (R, X) or (X,).

    Raises:
      ValueError: for an unknown method.
    """
    proxy, has_dipod = np.array([method_array(m) for m in methods]).T
    rewards = np.asarray(rewards, np.float64)
    count = len(proxy)
    columns: tuple[Any, ...] = (
        proxy.astype(np.int32),
        np.broadcast_to(np.asarray(betas, np.float64), count) * has_dipod,
        np.broadcast_to(rewards, (count, rewards.shape[-1])),
        np.broadcast_to(np.asarray(seeds), count),
        np.broadcast_to(np.asarray(num_updates, np.int32), count),
    )
    return Runs(*columns)


def train(settings: Settings, runs: Runs) -> Curves:
    """Algorithm 2: every update ascends proxy + beta * regulariser (DiPOD Eq. 7).

    Args:
      settings: the program. runs: R runs.

    Returns:
      Curves of numpy arrays (R, steps / record_every + 1); the first record is the initialisation.
    """
    with jax.enable_x64(True):
        return to_numpy(_train(settings, to_jax(runs)))


def train_interleaved(settings: Settings, runs: Runs) -> Curves:
    """Algorithm 1: distil pi_ref = pi to `tolerance`, take n = `num_updates` proxy updates, repeat.

    Distillation ascends `sum_x pi_ref(x) ELBO(x)` with plain gradient steps of the same size, and each of them counts
    as an update. It has converged when `E_ref[log pi_ref - ELBO] = KL(pi_ref | pi) + E_ref[D^L] < tolerance`, which
    asks for both a tight bound and an unmoved policy. Runs' beta is ignored; the bounds are exact.

    Args, returns: as `train`.
    """
    with jax.enable_x64(True):
        return to_numpy(_train_interleaved(settings, to_jax(runs)))


def to_jax(runs: Runs) -> Runs:
    """Arrays of the current precision: call it inside `enable_x64`."""
    return jax.tree.map(jnp.asarray, runs)


def to_numpy(curves):
    """The same tuple with numpy arrays."""
    return jax.tree.map(np.asarray, curves)


def exact_bounds_fn(settings: Settings):
    """params -> exact Bounds of (X,)."""

    def bounds_fn(params) -> Bounds:
        return all_bounds(settings.model.apply(params), settings.space, settings.eubo, settings.eubo_order)  # type: ignore[arg-type]

    return bounds_fn


def _estimated_bounds_fn(settings: Settings, key: jax.Array):
    """The bounds as the method sees them: exact log-likelihood, estimated ELBO and EUBO on shared draws."""
    space = settings.space
    if settings.estimator == "exact":
        return exact_bounds_fn(settings)
    num_sequences = len(space.sequences)
    draws = sample_draws(key, settings.estimator, settings.num_draws, num_sequences, settings.length)

    def bounds_fn(params) -> Bounds:
        conditionals = settings.model.apply(params)
        exact = all_bounds(conditionals, space, settings.eubo, settings.eubo_order)  # type: ignore[arg-type]
        log_probs = token_log_probs(conditionals, space)  # type: ignore[arg-type]
        return exact._replace(
            elbo=estimated_elbo(log_probs, draws),
            eubo=estimated_eubo(log_probs, draws, space.masked, settings.eubo_order),
        )

    return bounds_fn


def add_weights(weights: Bounds, other: Bounds, scale: jax.Array | float) -> Bounds:
    """weights + scale * other, field by field."""
    return jax.tree.map(lambda a, b: a + scale * b, weights, other)


def ascend(settings: Settings, params, direction):
    """One plain gradient step along a direction of ascent."""
    return jax.tree.map(lambda p, g: p + settings.learning_rate * g, params, direction)


def without_rise(direction, rise):
    """Remove from `direction` its component along `rise` where the two agree: to first order nothing rises."""
    dot = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, direction, rise)))
    square = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, rise, rise)))
    share = jnp.maximum(dot, 0.0) / jnp.where(square > 0, square, 1.0)
    return jax.tree.map(lambda g, h: g - share * h, direction, rise)


def _policy_step(settings: Settings, run: Runs, params, key):
    """Direction of one update of Algorithm 2 at `params`."""
    bounds, pullback = jax.vjp(_estimated_bounds_fn(settings, key), params)
    prob = jnp.exp(bounds.log_prob)
    advantage = advantages(prob, run.reward, settings.baseline)
    weights = add_weights(proxy_weights(run.proxy, prob, advantage), dipod_weights(prob), run.beta)
    (direction,) = pullback(weights)
    if settings.monotone:
        (rise,) = pullback(Bounds(log_prob=-prob, elbo=jnp.zeros_like(prob), eubo=prob))
        direction = without_rise(direction, rise)
    return direction


def _measure(settings: Settings, run: Runs, params, key, distilling) -> Curves:
    bounds, pullback = jax.vjp(exact_bounds_fn(settings), params)
    prob = jnp.exp(bounds.log_prob)
    advantage = advantages(prob, run.reward, settings.baseline)
    seen_pullback = (
        pullback if settings.estimator == "exact" else jax.vjp(_estimated_bounds_fn(settings, key), params)[1]
    )
    return Curves(
        mean_gap=jnp.sum(prob * bounds.lower_gap),
        max_gap=jnp.max(bounds.lower_gap),
        upper_gap=jnp.sum(prob * bounds.upper_gap),
        expected_reward=jnp.sum(prob * run.reward),
        gradient_cosine=cosine(
            seen_pullback(proxy_weights(run.proxy, prob, advantage)), pullback(policy_gradient_weights(prob, advantage))
        ),
        distilling=distilling,
    )


def _init(settings: Settings, run: Runs) -> tuple[Any, jax.Array]:
    init_key, draw_key = jax.random.split(jax.random.key(run.seed))
    return settings.model.init(init_key), draw_key


def _scan_records(settings: Settings, update, measure, state):
    """Alternate one measurement and `record_every` updates; the last record is of the state after all updates."""
    num_records = settings.steps // settings.record_every

    def record(state, index):
        measured = measure(state)
        # No updates after the last record. A trip count that is data keeps a second copy of `measure` uncompiled.
        count = jnp.where(index < num_records, settings.record_every, 0)
        start = index * settings.record_every
        return jax.lax.fori_loop(0, count, lambda offset, state: update(state, start + offset), state), measured

    state, curves = jax.lax.scan(record, state, jnp.arange(num_records + 1))
    return curves, state


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0))
def _train(settings: Settings, run: Runs) -> Curves:
    return train_run(settings, run)[0]


def train_run(settings: Settings, run: Runs) -> tuple[Curves, Any]:
    """One run of Algorithm 2 (no leading run axis): its curves and final parameters."""
    params, key = _init(settings, run)

    def update(params, step):
        direction = _policy_step(settings, run, params, jax.random.fold_in(key, step))
        return ascend(settings, params, direction)

    def measure(params):
        return _measure(settings, run, params, jax.random.fold_in(key, settings.steps), jnp.zeros(()))

    return _scan_records(settings, update, measure, params)


class _Interleaved(NamedTuple):
    params: Any
    ref_log_prob: jax.Array  # (X,) of pi_ref
    updates_left: jax.Array  # () policy updates before the next distillation; 0: distilling
    distilled: jax.Array  # () distillation steps since the last record


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0))
def _train_interleaved(settings: Settings, run: Runs) -> Curves:
    params, key = _init(settings, run)
    bounds_fn = exact_bounds_fn(settings)

    def update(state: _Interleaved, step) -> _Interleaved:
        bounds, pullback = jax.vjp(bounds_fn, state.params)
        prob, ref_prob = jnp.exp(bounds.log_prob), jnp.exp(state.ref_log_prob)
        converged = jnp.sum(ref_prob * (state.ref_log_prob - bounds.elbo)) < settings.tolerance
        distil = (state.updates_left == 0) & ~converged
        left = jnp.where(distil, 0, jnp.where(state.updates_left == 0, run.num_updates, state.updates_left) - 1)
        advantage = advantages(prob, run.reward, settings.baseline)
        policy_weights = proxy_weights(run.proxy, prob, advantage)
        weights = jax.tree.map(partial(jnp.where, distil), dipod_weights(ref_prob), policy_weights)
        params = ascend(settings, state.params, pullback(weights)[0])
        # After the last policy update the policy reached becomes the next reference.
        finished = ~distil & (left == 0)
        ref_log_prob = jnp.where(finished, bounds_fn(params).log_prob, state.ref_log_prob)
        return _Interleaved(params, ref_log_prob, left, state.distilled + distil)

    def measure(state: _Interleaved) -> Curves:
        return _measure(settings, run, state.params, key, state.distilled)

    start = _Interleaved(params, bounds_fn(params).log_prob, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
    curves, _ = _scan_records(settings, update, measure, start)
    counts = jnp.diff(curves.distilling, prepend=0)
    return curves._replace(distilling=counts / settings.record_every)
