"""Rounds of self-distillation of one fitted policy, each arm with a sampler of its own, and what is left of its std."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from dipod_jax.bounds import Draws, gaussian_velocity, integrate, log_prob_of_noise, time_grid
from dipod_jax.diagnostics import draw_losses, elbo_of_actions
from dipod_jax.diagnostics.batch import masked_mean
from dipod_jax.diagnostics.synthetic import ACTION_SIZE, fit_velocity, sample_target
from dipod_jax.studies.contraction.options import Arm, Config

GAP_SAMPLES = 2048  # of the measured actions, those whose exact likelihood is computed


class Distillation:
    """The fitted policy that every arm starts from, and the programs that distil and measure it."""

    def __init__(self, config: Config) -> None:
        """Fit the policy to the target."""
        self.config = config
        key_fit, self.key_rounds, self.key_measure = jax.random.split(jax.random.key(config.seed), 3)
        self.velocity_fn, self.params = fit_velocity(
            key_fit,
            lambda key: sample_target(key, config.batch, target=config.target, std=config.std),
            batch=config.batch,
            num_steps=config.fit_steps,
        )

    def run(self, arm: Arm) -> dict[str, Any]:
        """All rounds of one arm.

        Returns:
            The arm's fields; `std`, rounds + 1 standard deviations, the first before any round; `ratio`, the last over
            the first, and `theory`, what it would be for Gaussian actions and perfect fits; `gap_before` and
            `gap_after`, E[log pi - ELBO] in nats; `seconds`.
        """
        start = time.perf_counter()
        times = time_grid(arm.num_steps, kind=arm.grid, data_std=self.config.std)
        distil = jax.jit(lambda params, key: self._round(arm, times, params, key))
        measure = jax.jit(lambda params: self._measure(arm, times, params))
        params = self.params
        measured = [measure(params)]
        for key in jax.random.split(self.key_rounds, self.config.rounds):
            params = distil(params, key)
            measured.append(measure(params))
        stds = [float(values["std"]) for values in measured]
        return {
            **arm._asdict(),
            "std": stds,
            "ratio": stds[-1] / stds[0],
            "gap_before": float(measured[0]["gap"]),
            "gap_after": float(measured[-1]["gap"]),
            "theory": expected_ratio(arm, times, stds[0], self.config.rounds),
            "seconds": round(time.perf_counter() - start, 1),
        }

    def _round(self, arm: Arm, times: Array, params: Any, key: Array) -> Any:
        """Adam on the velocity loss of fresh actions of the frozen policy; `own_pairs` puts their base noise in eps."""
        config = self.config
        optimizer = optax.adam(optax.linear_schedule(config.learning_rate, 0.0, config.steps))
        obs = jnp.zeros((config.batch, 1))

        def loss_fn(candidate: Any, action: Array, draws: Draws) -> Array:
            losses = draw_losses(self.velocity_fn, candidate, obs, action, draws, form="velocity", reduction="sum")
            return jnp.mean(losses)

        def step(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
            candidate, opt_state = carry
            key_noise, key_eps, key_t = jax.random.split(key, 3)
            noise = jax.random.normal(key_noise, (config.batch, ACTION_SIZE))
            action = self._act(arm, times, params, noise)
            eps = noise if arm.own_pairs else jax.random.normal(key_eps, noise.shape)
            draws = Draws(jax.random.uniform(key_t, (config.batch, 1)), eps[:, None])
            gradient = jax.grad(loss_fn)(candidate, action, draws)
            updates, opt_state = optimizer.update(gradient, opt_state, candidate)
            return (optax.apply_updates(candidate, updates), opt_state), None

        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, jax.random.split(key, config.steps))[0][0]

    def _act(self, arm: Arm, times: Array, params: Any, noise: Array) -> Array:
        """Base noise (B, d) to actions (B, d), by the arm's sampler."""
        obs = jnp.zeros((noise.shape[0], 1))
        return integrate(lambda x, t: self.velocity_fn(params, obs, x, t), noise, times, method=arm.method)

    def _measure(self, arm: Arm, times: Array, params: Any) -> dict[str, Array]:
        """Standard deviation of the acting sampler (mean over dimensions), and E[log pi - ELBO] of its actions."""
        key_noise, key_elbo = jax.random.split(self.key_measure)
        noise = jax.random.normal(key_noise, (self.config.samples, ACTION_SIZE))
        noise = (noise - jnp.mean(noise, axis=0)) / jnp.std(noise, axis=0)  # takes out the measurement's own error
        action = self._act(arm, times, params, noise)
        noise, few = noise[:GAP_SAMPLES], action[:GAP_SAMPLES]
        obs = jnp.zeros((few.shape[0], 1))
        exact = log_prob_of_noise(self.velocity_fn, params, obs, noise, times, method=arm.method)
        bound = elbo_of_actions(self.velocity_fn, params, obs, few, key_elbo, delta=0.01, num_draws=32)
        return {"std": jnp.mean(jnp.std(action, axis=0)), "gap": masked_mean(exact.log_prob - bound, exact.valid)}


def expected_ratio(arm: Arm, times: Array, std: float, rounds: int) -> float:
    """Standard deviation after all rounds over `std` before, for Gaussian actions and perfect fits (docs/bounds.md).

    One round takes s to the end point of the arm's sampler from noise 1, under the velocity that is optimal for s.
    """
    if arm.own_pairs:
        return 1.0  # the pairs lie on straight lines, which Euler follows without error

    def one_round(s: Array, _: None) -> tuple[Array, None]:
        field = lambda x, t: gaussian_velocity(s, x, x, t)  # pyright: ignore[reportArgumentType]
        return integrate(field, jnp.ones((1, 1)), times, method=arm.method)[0, 0], None

    return float(jax.lax.scan(one_round, jnp.float32(std), length=rounds)[0] / std)
