"""Placement of the (t, eps) pairs of a bound: five rules with one signature, all but one unbiased."""

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Placement = Literal["monte-carlo", "grid", "stratified", "antithetic", "gauss-legendre"]
PLACEMENTS: tuple[str, ...] = get_args(Placement)


class Draws(NamedTuple):
    """The N points at which the bound of an action is evaluated, shared by the old, new and reference losses."""

    t: Array
    """(..., N) diffusion time in [0, 1]; 1 is pure noise."""
    eps: Array
    """(..., N, d) standard normal noise."""


def sample_draws(
    key: Array,
    batch_shape: tuple[int, ...],
    num_draws: int,
    action_size: int,
    *,
    placement: str,
    times: Array | None = None,
    t_min: float = 0.0,
) -> Draws:
    """Draw N points (t, eps) for each action of a batch.

    ``sum_n w_n f(t_n, eps_n)`` with ``w = draw_weights(placement, N)`` estimates ``E_t E_eps f(t, eps)``, where t is
    uniform on ``[t_min, 1]`` (on ``times`` for ``grid``):

    - ``monte-carlo``: t_n ~ U(t_min, 1), independent;
    - ``grid``: t_n uniform over ``times``, at which the sampler evaluates the velocity (FPO's ``discretize_t``, arXiv
      2507.21053; 10 Euler steps and 5 midpoint steps alike: {1, .9, ..., .1}; see ``evaluation_times``);
    - ``stratified``: t_n = t_min + (1 - t_min) (n + u)/N with one u ~ U(0, 1) per action (the low-discrepancy sampler
      of variational diffusion models, arXiv 2107.00630, App. I.1, applied within an action);
    - ``antithetic``: N/2 pairs (t, eps), (1 + t_min - t, -eps); each member has the marginal of ``monte-carlo``;
    - ``gauss-legendre``: GDPO's nodes mapped to [t_min, 1], the same for every action; only eps is random.

    The first four are unbiased. Gauss-Legendre is exact in t for polynomials of degree 2N - 1 and biased for anything
    else: with the weight (1 - t)/t it silently regularises the divergence at t = 0. The weights of the ELBO are a
    separate matter; see ``elbo``.

    Args:
      key: PRNG key, consumed.
      batch_shape: leading shape ``...`` of the actions.
      num_draws: N >= 1; even for ``antithetic``.
      action_size: d >= 1.
      placement: one of ``PLACEMENTS``.
      times: (M,) the sampler's evaluation times; required by ``grid``, ignored by the others.
      t_min: smallest time, in [0, 1); must be 0 for ``grid``, whose smallest time is among ``times``.

    Returns:
      ``Draws`` with t (..., N) and eps (..., N, d), float32.

    Raises:
      ValueError: for an unknown placement, an odd number of antithetic draws, a missing grid or a value out of range.
    """
    _check_arguments(num_draws, action_size, placement, times, t_min)
    key_t, key_eps = jax.random.split(key)
    unit_t = functools.partial(jax.random.uniform, key_t, dtype=jnp.float32)
    eps = jax.random.normal(key_eps, (*batch_shape, num_draws, action_size), jnp.float32)
    shape = (*batch_shape, num_draws)
    if placement == "grid":
        assert times is not None  # checked above; for the type checker
        grid = jnp.asarray(times, jnp.float32)
        return Draws(grid[jax.random.randint(key_t, shape, 0, grid.shape[0])], eps)
    if placement == "monte-carlo":
        unit = unit_t(shape)
    elif placement == "stratified":
        unit = (jnp.arange(num_draws, dtype=jnp.float32) + unit_t((*batch_shape, 1))) / num_draws
    elif placement == "antithetic":
        half = unit_t((*batch_shape, num_draws // 2))
        unit = jnp.concatenate([half, 1.0 - half], axis=-1)
        half_eps = eps[..., : num_draws // 2, :]
        eps = jnp.concatenate([half_eps, -half_eps], axis=-2)
    else:
        nodes, _ = gauss_legendre(num_draws)
        unit = jnp.broadcast_to(jnp.asarray(nodes, jnp.float32), shape)
    return Draws(t_min + (1.0 - t_min) * unit, eps)


def draw_weights(placement: str, num_draws: int) -> Array:
    """Weights of the N draws of one action, (N,) float32, summing to 1; uniform, except for ``gauss-legendre``.

    Raises:
      ValueError: for an unknown placement or ``num_draws < 1``.
    """
    _check_arguments(num_draws, 1, placement, times=None, t_min=0.0, needs_grid=False)
    if placement == "gauss-legendre":
        return jnp.asarray(gauss_legendre(num_draws)[1], jnp.float32)
    return jnp.full((num_draws,), 1.0 / num_draws, jnp.float32)


def gauss_legendre(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes (N,) and weights (N,) on [0, 1] in float64: exact for polynomials of degree 2N - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return 0.5 * (nodes + 1.0), 0.5 * weights


def _check_arguments(
    num_draws: int, action_size: int, placement: str, times: Array | None, t_min: float, *, needs_grid: bool = True
) -> None:
    if placement not in PLACEMENTS:
        raise ValueError(f"placement {placement!r} is not one of {', '.join(PLACEMENTS)}")
    if num_draws < 1:
        raise ValueError(f"num_draws {num_draws} must be at least 1")
    if action_size < 1:
        raise ValueError(f"action_size {action_size} must be at least 1")
    if not 0.0 <= t_min < 1.0:
        raise ValueError(f"t_min {t_min} must lie in [0, 1)")
    if placement == "antithetic" and num_draws % 2:
        raise ValueError(f"num_draws {num_draws} must be even for antithetic pairs")
    if placement == "grid" and needs_grid:
        if times is None:
            raise ValueError("placement 'grid' needs times, at which the sampler evaluates the velocity")
        if t_min > 0.0:
            raise ValueError(f"t_min {t_min} has no meaning on the sampler's grid; it must be 0 there")
