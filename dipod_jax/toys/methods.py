"""Methods as weights of the gradients of bounds, derived from the library's own objectives.

An objective is a function of scores, and here a sequence's scores are its exact likelihood or its bounds. So its exact
gradient is `sum_x pi(x) c(x) grad B(x)`, where c(x) is minus the gradient of the objective's loss in the score of x at
new = old: one vector-Jacobian product with `pi c`, without sampling (on-policy, one epoch, rho = 1).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from dipod_jax.diagnostics.vectors import cosine
from dipod_jax.objectives import Objective
from dipod_jax.objectives.fpo import Fpo
from dipod_jax.objectives.ppo import Ppo
from dipod_jax.objectives.spg import Spg
from dipod_jax.regularisers import Terms
from dipod_jax.regularisers.dipod import Dipod
from dipod_jax.toys.bounds import Bounds
from dipod_jax.toys.options import BASELINES, PROXIES, split_method
from dipod_jax.types import Scores, make_scores


class Proxy(NamedTuple):
    """An objective, and what replaces the log-likelihood in its scores."""

    objective: Objective
    score: Literal["log_prob", "elbo"]


# In the order of `options.PROXIES`. SPG's U is the EUBO alone here, as in its paper's toy (eq. 8 with omega = 1).
OBJECTIVES = (Proxy(Ppo(), "log_prob"), Proxy(Fpo(), "elbo"), Proxy(Spg(mix=1.0), "elbo"))


def as_scores(bounds: Bounds, score: Literal["log_prob", "elbo"]) -> Scores:
    """Scores of one draw: minus the chosen value, with both bounds."""
    loss = -getattr(bounds, score)[..., None]
    return make_scores(loss, bound=-bounds.elbo)._replace(upper=-bounds.eubo)


def _weights(loss_fn: Callable[..., jax.Array], bounds: Bounds, *columns: jax.Array) -> Bounds:
    """c: minus the gradient of `loss_fn(new, old, ...)` of one sequence in its bounds at new = old, for each: (X,)."""
    gradient = jax.vmap(jax.grad(loss_fn))(bounds, bounds, *columns)
    return jax.tree.map(jnp.negative, gradient)


def objective_weights(member: Proxy, bounds: Bounds, advantage: jax.Array) -> Bounds:
    """pi c of one objective's policy gradient, of all sequences: Bounds of (X,)."""

    def loss_fn(new: Bounds, old: Bounds, advantage: jax.Array) -> jax.Array:
        return member.objective(as_scores(new, member.score), as_scores(old, member.score), None, advantage)[0]

    return jax.tree.map(lambda c: bounds.prob * c, _weights(loss_fn, bounds, advantage))


def proxy_weights(proxy: jax.Array | int, bounds: Bounds, advantage: jax.Array) -> Bounds:
    """pi c of a proxy chosen as data, so that one program serves several.

    For `policy-gradient` it is pi A on log pi; for `fpo` on the ELBO; for `spg` on the ELBO where A > 0 and on the EUBO
    elsewhere.

    Args:
      proxy: () index into `options.PROXIES`; may be traced.
      bounds: (X,), at which the weights are taken; not differentiated further.
      advantage: (X,).

    Returns:
      Bounds of weights, each (X,).
    """
    each = [objective_weights(member, bounds, advantage) for member in OBJECTIVES]
    return jax.tree.map(lambda *weights: jnp.stack(weights)[proxy], *each)


def dipod_weights(bounds: Bounds, prob: jax.Array) -> Bounds:
    """Weights of DiPOD's regulariser on samples of `prob` (X,), to be scaled by beta: Bounds of (X,).

    `sum_x prob(x) grad ELBO(x)`: with the policy's own probabilities eq. 7, with a reference's a step of
    self-distillation.
    """

    def loss_fn(new: Bounds, old: Bounds) -> jax.Array:
        return Dipod(weight=1.0)(Terms(as_scores(new, "elbo"), as_scores(old, "elbo"), None, None))

    return jax.tree.map(lambda c: prob * c, _weights(loss_fn, bounds))


def add_weights(weights: Bounds, other: Bounds, scale: jax.Array | float) -> Bounds:
    """weights + scale * other, field by field."""
    return jax.tree.map(lambda a, b: a + scale * b, weights, other)


def method_array(method: str) -> tuple[int, float]:
    """A method as data, so that different methods can share one vmapped program: (proxy index, 1 if DiPOD)."""
    proxy, has_dipod = split_method(method)
    return [str(name) for name in PROXIES].index(proxy), float(has_dipod)


def advantages(prob: jax.Array, reward: jax.Array, baseline: str) -> jax.Array:
    """Advantage of every sequence.

    `on-policy`: r - E_pi r. `uniform`: r minus the mean of all rewards, whatever the policy. `none`: r.
    `group-std`: (r - E_pi r) / sqrt(Var_pi r + 1e-12).

    Args:
      prob: (X,) probabilities under the current policy, summing to 1.
      reward: (X,).
      baseline: one of `options.BASELINES`.

    Returns:
      (X,).

    Raises:
      ValueError: for an unknown baseline.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline {baseline!r} is unknown: choose from {', '.join(BASELINES)}")
    if baseline == "none":
        return reward
    if baseline == "uniform":
        return reward - jnp.mean(reward)
    centred = reward - prob @ reward
    return centred if baseline == "on-policy" else centred / jnp.sqrt(prob @ centred**2 + 1e-12)


class Gradients(NamedTuple):
    """Quantities at one parameter vector: bounds (X,), and directions of ascent shaped like the parameters."""

    bounds: Bounds
    proxy: Any  # without the beta term
    dipod: Any
    policy: Any  # the true policy gradient


def exact_gradients(
    bounds_fn: Callable[[Any], Bounds], params: Any, proxy: jax.Array | int, reward: jax.Array, baseline: str
) -> Gradients:
    """Proxy, regulariser and true policy gradients at one parameter value.

    Args:
      bounds_fn: params -> Bounds of (X,).
      params: any pytree.
      proxy: () index into `options.PROXIES`.
      reward: (X,).
      baseline: one of `options.BASELINES`.
    """
    bounds, pullback = jax.vjp(bounds_fn, params)
    advantage = advantages(bounds.prob, reward, baseline)
    return Gradients(
        bounds,
        proxy=pullback(proxy_weights(proxy, bounds, advantage))[0],
        dipod=pullback(dipod_weights(bounds, bounds.prob))[0],
        policy=pullback(objective_weights(OBJECTIVES[0], bounds, advantage))[0],
    )


def gradient_cosine(a: Any, b: Any) -> jax.Array:
    """Cosine of two pytrees, (); 0 if either vanishes, so that a run that has stopped learning stays readable."""
    value = cosine(a, b)
    return jnp.where(jnp.isnan(value), 0.0, value)
