"""The input of the drift meter, its settings, and statistics over valid samples."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dipod_jax.bounds import FORMS, METHODS, PLACEMENTS, REDUCTIONS, ConditionedVelocityFn, Draws, cfm_loss, interpolate
from dipod_jax.types import Params


class DriftBatch(NamedTuple):
    """On-policy samples, drawn with the parameters that are measured."""

    obs: Array
    """(B, O) as the velocity network sees it: normalised with the statistics used for acting."""
    base_noise: Array
    """(B, d) the sampler's x_1."""
    action: Array
    """(B, d) the stored action that the objective sees, pre-tanh, possibly clipped. The meter itself uses
    integrate(base_noise)."""
    advantage: Array
    """(B,) normalised over the rollout, possibly clipped."""
    draws: Draws
    """t (B, N), eps (B, N, d) of the CFM loss."""


@dataclass(frozen=True)
class MeterSettings:
    """How carefully to measure. The defaults cost about a tenth of a second on one core for B = 512, d = 2, a 4 x 32
    net."""

    method: str = "euler"
    "The acting sampler: euler, midpoint or heun."
    form: str = "eps"
    "Form of the CFM loss in drift/cfm_loss and drift/refit_gain: velocity, eps or x0."
    reduction: str = "mean"
    "Its reduction over action dimensions: mean, sum or sqrt."
    placement: str = "grid"
    "Placement of the refit's draws."
    delta: float = 0.05
    "Cut-off of the ELBO's time, in (0, 1)."
    num_elbo_draws: int = 16
    "Draws per action for the ELBO, stratified in log t; >= 1."
    num_floor_samples: int = 128
    "Samples on which the discretisation floor is estimated; >= 2; at most B are used."
    fine_factor: int = 4
    "Heun steps per sampler step in the approximation of infinitely many; >= 1."
    num_states: int = 32
    "States whose action distribution is sampled; >= 1; at most B are used."
    num_actions: int = 32
    "Actions drawn in each of these states; >= 2."
    refit_steps: int = 32
    "Adam steps of the refit; 0 leaves drift/refit_gain out."
    refit_learning_rate: float = 1e-3
    "Its initial learning rate, decayed linearly to 0; > 0."
    refit_draws: int = 8
    "Draws per action in the refit, training and held out; >= 1, even for antithetic placement."
    chunk_size: int = 512
    "Samples differentiated at once; limits memory and changes results by rounding only; >= 1."

    def __post_init__(self) -> None:
        for name, legal in (("method", METHODS), ("form", FORMS), ("reduction", REDUCTIONS), ("placement", PLACEMENTS)):
            if getattr(self, name) not in legal:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(legal)}")
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta {self.delta} must lie in (0, 1)")
        if not 0.0 < self.refit_learning_rate < float("inf"):
            raise ValueError(f"refit_learning_rate {self.refit_learning_rate} must be positive and finite")
        least = {
            "num_elbo_draws": 1,
            "num_floor_samples": 2,
            "fine_factor": 1,
            "num_states": 1,
            "num_actions": 2,
            "refit_steps": 0,
            "refit_draws": 1,
            "chunk_size": 1,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} {getattr(self, name)} must be at least {bound}")


def draw_losses(
    velocity_fn: ConditionedVelocityFn,
    params: Params,
    obs: Array,
    action: Array,
    draws: Draws,
    *,
    form: str,
    reduction: str,
) -> Array:
    """CFM loss of every draw: obs (B, O), action (B, d), draws (B, N) -> (B, N)."""
    x_t = interpolate(action, *draws)  # (B, N, d)
    velocity = jax.vmap(lambda x, t: velocity_fn(params, obs, x, t), in_axes=1, out_axes=1)(x_t, draws.t)
    return cfm_loss(velocity, action, draws, form=form, reduction=reduction)


def masked_mean(values: Array, mask: Array) -> Array:
    """Mean of (B,) values over a mask; NaN if the mask is empty."""
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.sum(mask)


def masked_mean_and_error(values: Array, mask: Array) -> tuple[Array, Array]:
    """Mean and its standard error over a mask, taking the samples as independent."""
    mean = masked_mean(values, mask)
    variance = jnp.sum(jnp.where(mask, jnp.square(values - mean), 0.0)) / (jnp.sum(mask) - 1)
    return mean, jnp.sqrt(variance / jnp.sum(mask))


def masked_correlation(x: Array, y: Array, mask: Array) -> Array:
    """Pearson correlation of two (B,) arrays over a mask; NaN if one of them is constant."""
    x, y = (jnp.where(mask, z - masked_mean(z, mask), 0.0) for z in (x, y))
    return jnp.vdot(x, y) / jnp.sqrt(jnp.vdot(x, x) * jnp.vdot(y, y))
