"""Noisy steps along a flow: each is a Gaussian decision with its own likelihood.

All are affine in the state and the velocity: x_{k+1} ~ N(a_k x_k + b_k v(x_k, t_k), std_k^2 I), from t_0 = 1 to t_K
= 0.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


class Transitions(NamedTuple):
    """The coefficients of K steps."""

    state: Array
    """(K,) a_k, the factor on the state"""
    slope: Array
    """(K,) b_k, the factor on the velocity"""
    std: Array
    """(K,) the standard deviation of the step, in the action's units"""


def constant_noise(times: ArrayLike, *, std: float) -> Transitions:
    """Euler's step with a fixed noise on top, ``N(x + dt v, std^2 I)`` (FPO's denoising MDP, arXiv 2507.21053, 4.2).

    The noise widens the marginals; that of the last step enters the action directly.

    Args:
      times: (K+1,) decreasing, 1 to 0.
      std: of every step, > 0.
    """
    dt = np.diff(np.asarray(times, np.float64))
    return _transitions(np.ones_like(dt), dt, np.full_like(dt, std))


def marginal_preserving(times: ArrayLike, *, level: float) -> Transitions:
    """An Euler-Maruyama step of the SDE whose marginals are the flow's (Flow-GRPO, arXiv 2505.05470):

        x + [v + s_t^2 / (2 t) (x + (1 - t) v)] dt + s_t sqrt(-dt) z,      s_t = level sqrt(t / (1 - t)).

    ``-(x + (1 - t) v) / t`` is the score of the optimal field, so the drift takes back what the noise adds: exactly for
    that field as K grows, and for no other field. s_t is infinite at t = 1, where the value at the next time, t_1, is
    used; the code keeps the numerator 1 there, which is wider by a factor of 1 / sqrt(t_1).

    Args:
      times: (K+1,) decreasing, 1 to 0, K >= 2.
      level: > 0; 0.7 in the paper, 0 gives the ODE.

    Raises:
      ValueError: for K = 1, whose only step starts where s_t is infinite.
    """
    grid = np.asarray(times, np.float64)
    if len(grid) < 3:
        raise ValueError(f"{len(grid) - 1} step cannot keep the marginals: there must be at least 2")
    t, dt = grid[:-1], np.diff(grid)
    at = np.where(t < 1.0, t, grid[1])
    noise = level * np.sqrt(at / (1.0 - at))
    correction = np.square(noise) / (2.0 * t)
    return _transitions(1.0 + correction * dt, (1.0 + correction * (1.0 - t)) * dt, noise * np.sqrt(-dt))


def ddim(times: ArrayLike, *, eta: float, floor: float) -> Transitions:
    """DDIM's step on the straight path (arXiv 2010.02502, eqs. 12, 16, with alpha = 1 - t and sigma = t), from t to s:

        N((1 - s) x0_hat + sqrt(s^2 - std^2) eps_hat, std^2 I),
        std = eta (s / t) sqrt(t^2 - (s (1 - t) / (1 - s))^2)

    with x0_hat = x - t v and eps_hat = x + (1 - t) v. eta = 0 is Euler's step of the ODE, eta = 1 the posterior of the
    ancestral sampler (DDPO). The last step's std is 0, which has no density, so no step's noise is below ``floor``.

    Args:
      times: (K+1,) decreasing, 1 to 0.
      eta: in [0, 1].
      floor: smallest standard deviation, > 0; it is added on top and widens the marginals.
    """
    grid = np.asarray(times, np.float64)
    t, s = grid[:-1], grid[1:]
    std = eta * (s / t) * np.sqrt(np.square(t) - np.square(s * (1.0 - t) / (1.0 - s)))
    kept = np.sqrt(np.square(s) - np.square(std))
    return _transitions(1.0 - s + kept, kept * (1.0 - t) - (1.0 - s) * t, np.maximum(std, floor))


def _transitions(*columns: np.ndarray) -> Transitions:
    return Transitions(*(jnp.asarray(column, jnp.float32) for column in columns))
