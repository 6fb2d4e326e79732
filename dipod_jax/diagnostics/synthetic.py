"""Small flow policies with a known answer: two-dimensional targets and a velocity network fitted to them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from dipod_jax.bounds import CfmSpec, ConditionedVelocityFn, draw_weights, evaluation_times, sample_draws, time_grid
from dipod_jax.diagnostics.batch import draw_losses
from dipod_jax.networks import VelocityField
from dipod_jax.types import Params

TARGETS = ("gaussian", "two-modes")
ACTION_SIZE = 2


def sample_target(key: Array, batch: int, *, target: str, std: float) -> Array:
    """Two-dimensional actions (B, 2): ``gaussian`` N(0, std^2 I), ``two-modes`` with that spread at +-(3 std, 3 std),
    half each.

    Raises:
      ValueError: for an unknown target.
    """
    if target not in TARGETS:
        raise ValueError(f"target {target!r} is not one of {', '.join(TARGETS)}")
    key_normal, key_mode = jax.random.split(key)
    normal = std * jax.random.normal(key_normal, (batch, ACTION_SIZE))
    if target == "gaussian":
        return normal
    side = jnp.where(jax.random.bernoulli(key_mode, shape=(batch, 1)), 1.0, -1.0)
    return normal + 3.0 * std * side


def fit_velocity(
    key: Array,
    sample_fn: Callable[[Array], Array],
    *,
    batch: int,
    num_steps: int,
    learning_rate: float = 3e-3,
    hidden_sizes: tuple[int, ...] = (32, 32, 32, 32),
    spec: CfmSpec | None = None,
) -> tuple[ConditionedVelocityFn, Any]:
    """Fit a velocity network to fresh samples of a target by the CFM loss, Adam with a cosine-decayed rate.

    Args:
      key: PRNG key, consumed.
      sample_fn: key -> (batch, 2) target actions.
      batch: samples per step.
      num_steps: Adam steps, >= 1.
      learning_rate: initial.
      hidden_sizes: of the network.
      spec: the loss; None for one Monte-Carlo draw of the velocity loss.

    Returns:
      ``velocity_fn`` (its ``obs`` has shape (B, 1) and carries no information) and its parameters.
    """
    spec = CfmSpec("velocity", "sum", "monte-carlo", 1) if spec is None else spec
    network = VelocityField(ACTION_SIZE, hidden_sizes, output_scale=1.0)
    obs, times = jnp.zeros((batch, 1)), evaluation_times(time_grid(10, kind="uniform"), method="euler")
    key_init, key_train = jax.random.split(key)
    params = network.init(key_init, obs, jnp.zeros((batch, ACTION_SIZE)), jnp.zeros(()))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def velocity_fn(params: Params, obs: Array, x: Array, t: Array) -> Array:
        return jnp.asarray(network.apply(params, obs, x, t))

    def loss_fn(params: Params, key: Array) -> Array:
        key_action, key_draws = jax.random.split(key)
        action = sample_fn(key_action)
        draws = sample_draws(key_draws, (batch,), spec.num_draws, ACTION_SIZE, placement=spec.placement, times=times)
        losses = draw_losses(velocity_fn, params, obs, action, draws, form=spec.form, reduction=spec.reduction)
        return jnp.mean(losses @ draw_weights(spec.placement, spec.num_draws))

    def step(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(loss_fn)(params, key), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def train(params: Params, key: Array) -> Any:
        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, num_steps))[0][0]

    return velocity_fn, train(params, key_train)
