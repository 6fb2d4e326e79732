"""Methods as linear combinations of bounds.

Every method here ascends `sum_x c(x) B(x)`, where B is a bound and the weight c is held constant in the
differentiation. So a method *is* its c, a `Bounds` of weights, and one vector-Jacobian product with c gives its
exact gradient: no sampling, no ratio (on-policy, one epoch).
"""

import jax
import jax.numpy as jnp

from dipod_jax.twotoken.bounds import Bounds
from dipod_jax.twotoken.options import BASELINES, PROXIES, split_method


def advantages(prob: jax.Array, reward: jax.Array, baseline: str) -> jax.Array:
    """Advantage of every output.

    `on-policy`: r - E_pi r. `uniform`: r minus the plain mean of all rewards, whatever the policy.
    `none`: r. `group-std`: (r - E_pi r) / sqrt(Var_pi r + 1e-12).

    Args:
      prob: (X,) probabilities under the current policy, summing to 1.
      reward: (X,).
      baseline: one of `options.BASELINES`.

    Returns:
      (X,).

    Raises:
      ValueError: for an unknown baseline.
    """
    if baseline == "none":
        return reward
    if baseline == "uniform":
        return reward - jnp.mean(reward)
    if baseline not in BASELINES:
        raise ValueError(f"baseline {baseline!r} is unknown: choose from {', '.join(BASELINES)}")
    centred = reward - jnp.sum(prob * reward)
    if baseline == "on-policy":
        return centred
    return centred / jnp.sqrt(jnp.sum(prob * centred**2) + 1e-12)


def method_array(method: str) -> tuple[int, float]:
    """A method as data, so that different methods can share one vmapped program: (proxy index, 1 if DiPOD)."""
    proxy, has_dipod = split_method(method)
    return PROXIES.index(proxy), float(has_dipod)


def proxy_weights(proxy: jax.Array | int, prob: jax.Array, advantage: jax.Array) -> Bounds:
    """Weights c of the proxy policy gradient, `sum_x pi(x) A(x) grad S(x)`.

    S is log pi (policy gradient), the ELBO (FPO), or the ELBO where A > 0 and the EUBO elsewhere (SPG Eq. 8 with
    omega = 1, and the strict selector of its code; at A = 0 the term vanishes either way).

    Args:
      proxy: () index into `options.PROXIES`; may be traced.
      prob: (X,).
      advantage: (X,).

    Returns:
      Bounds of weights, each (X,).
    """
    weight = prob * advantage
    is_policy, is_fpo, is_spg = (jnp.asarray(proxy) == i for i in range(len(PROXIES)))
    raises = advantage > 0
    return Bounds(
        log_prob=jnp.where(is_policy, weight, 0.0),
        elbo=jnp.where(is_fpo | (is_spg & raises), weight, 0.0),
        eubo=jnp.where(is_spg & ~raises, weight, 0.0),
    )


def policy_gradient_weights(prob: jax.Array, advantage: jax.Array) -> Bounds:
    """Weights c of the true policy gradient, `sum_x pi(x) A(x) grad log pi(x)`: Bounds of (X,)."""
    return proxy_weights(PROXIES.index("policy-gradient"), prob, advantage)


def dipod_weights(prob: jax.Array) -> Bounds:
    """Weights c of DiPOD's regulariser (Eq. 7), `sum_x pi(x) grad ELBO(x)`, to be scaled by beta: Bounds of (X,)."""
    zero = jnp.zeros_like(prob)
    return Bounds(log_prob=zero, elbo=prob, eubo=zero)


def cosine(a, b) -> jax.Array:
    """Cosine between two pytrees of arrays of the same structure, (); 0 where either vanishes.

    0 rather than nan: a run that has stopped learning stays readable. It is not a statement about direction.
    """

    def dot(u, v):
        return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True))

    norms = jnp.sqrt(dot(a, a) * dot(b, b))
    return jnp.where(norms > 0, dot(a, b) / jnp.where(norms > 0, norms, 1.0), 0.0)
