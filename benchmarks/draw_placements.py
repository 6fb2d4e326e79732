"""Where to put (t, eps): noise of the ELBO, of the training loss and of their gradients, at N evaluations for everyone.

    python -m benchmarks.draw_placements --run runs/ballincup    # a trained policy
    python -m benchmarks.draw_placements                              # a small network fitted here

Prints a table and writes DIR/draw_placements.json.
"""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

from dipod_jax.checks import require
from dipod_jax.cli import parse_options, run_cli
from dipod_jax.tables import table

COLUMNS = (
    ("elbo_std", "ELBO std"),
    ("elbo_bias", "ELBO bias"),
    ("elbo_gradient_noise", "ELBO gradient noise"),
    ("loss_std", "loss std"),
    ("loss_bias", "loss bias"),
    ("loss_gradient_noise", "loss gradient noise"),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Variance of bounds and of their gradients for every placement of the draws, at equal cost."""

    run: Path | None = None
    """Run folder of a trained flow policy; without it a small network is fitted to a two-dimensional target."""
    out: Path | None = None
    """Folder for the result, new or empty; runs/bench/<time> where not given."""
    num_draws: int = 8
    """Draws per action N, even and at least 2: the cost of every placement."""
    batch: int = 256
    """On-policy actions, >= 2."""
    redraws: int = 64
    """Independent redraws behind every variance, >= 8."""
    delta: float = 0.05
    """Cut-off of the ELBO, in (0, 1)."""
    target: str = "two-modes"
    """Without --run, what the network is fitted to: gaussian or two-modes."""
    fit_steps: int = 3000
    """Without --run, Adam steps of that fit, >= 1."""
    seed: int = 0
    """Seed of everything random here, >= 0."""

    def __post_init__(self) -> None:
        even = self.num_draws >= 2 and self.num_draws % 2 == 0
        require(even, "num-draws", self.num_draws, "an even integer of at least 2")
        require(self.batch >= 2, "batch", self.batch, "an integer of at least 2")
        require(self.redraws >= 8, "redraws", self.redraws, "an integer of at least 8")
        require(0.0 < self.delta < 1.0, "delta", self.delta, "in (0, 1)")
        require(self.target in ("gaussian", "two-modes"), "target", self.target, "gaussian, two-modes")
        require(self.fit_steps >= 1, "fit-steps", self.fit_steps, "an integer of at least 1")
        require(0 <= self.seed < 2**31, "seed", self.seed, "an integer, 0 <= seed < 2^31")

    @property
    def folder(self) -> Path:
        """Where the result goes."""
        return self.out or Path("runs/bench") / time.strftime("%Y%m%d-%H%M%S")


def parse(argv: list[str]) -> Config:
    """The configuration in the arguments, its folder writable and its run a run."""
    from dipod_jax.runs import RunFolder, check_unused, check_writable

    config = parse_options(Config, argv, prog="python -m benchmarks.draw_placements")
    if config.run is not None:
        kind = RunFolder.open(config.run).config.get("objective")
        require(kind != "ppo", "run", str(config.run), "a run of a flow policy, not of Gaussian PPO")
    check_writable(config.folder)
    check_unused(config.folder)
    return config


def main(config: Config) -> None:
    """Measure every placement, print the table, write the JSON."""
    policy = _trained(config) if config.run is not None else _fitted(config)
    rows = _measure(config, *policy)
    print(table([_cells(row) for row in rows]))
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "draw_placements.json"
    record = {"config": dataclasses.asdict(config), "rows": rows}
    path.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    print(f"written to {path}")


def _fitted(config: Config) -> tuple[Any, Any, Any, Any, Any]:
    """A network fitted to a synthetic target: velocity_fn, params, obs, action, the sampler's evaluation times."""
    import jax
    import jax.numpy as jnp

    from dipod_jax.bounds import evaluation_times, integrate, time_grid
    from dipod_jax.diagnostics.synthetic import fit_velocity, sample_target

    key_fit, key_noise = jax.random.split(jax.random.key(config.seed))
    velocity_fn, params = fit_velocity(
        key_fit,
        lambda key: sample_target(key, 1024, target=config.target, std=0.3),
        batch=1024,
        num_steps=config.fit_steps,
    )
    obs, noise = jnp.zeros((config.batch, 1)), jax.random.normal(key_noise, (config.batch, 2))
    times = time_grid(10, kind="uniform")
    action = integrate(lambda x, t: velocity_fn(params, obs, x, t), noise, times, method="euler")
    return velocity_fn, params, obs, action, evaluation_times(times, method="euler")


def _trained(config: Config) -> tuple[Any, Any, Any, Any, Any]:
    """A run's policy on states that it visits: B environments, acted for 100 + i steps by the i-th."""
    import jax

    from dipod_jax import envs
    from dipod_jax.policies import FlowPolicy
    from dipod_jax.training.evaluation import make_act
    from dipod_jax.training.loading import restore_policy

    assert config.run is not None
    trained = restore_policy(config.run)
    policy, params = trained.policy, trained.params
    assert isinstance(policy, FlowPolicy)
    env = envs.make(trained.config.task, trained.config.backend)
    act = make_act(policy, params, trained.statistics)
    key_reset, key_act, key_noise = jax.random.split(jax.random.key(config.seed), 3)

    def step(state: Any, key: Any) -> tuple[Any, Any]:
        noise = jax.random.normal(key, (config.batch, policy.action_size))
        state, _ = env.step(state, act(state.obs, noise))
        return state, state.obs

    horizon = 100 + config.batch
    keys = jax.random.split(key_act, horizon)
    visited = jax.jit(lambda state: jax.lax.scan(step, state, keys)[1])(env.reset(key_reset, config.batch))
    rows = jax.numpy.arange(config.batch)
    obs = trained.statistics.normalise(visited[100 + rows, rows])
    action = policy.act(params, obs, jax.random.normal(key_noise, (config.batch, policy.action_size)))
    return policy.velocity, params, obs, action, policy.evaluation_times


def _measure(config: Config, velocity_fn: Any, params: Any, obs: Any, action: Any, times: Any) -> list[dict[str, Any]]:
    """One row per placement and time measure."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from dipod_jax.bounds import PLACEMENTS, draw_weights, elbo, sample_draws, to_log_uniform
    from dipod_jax.diagnostics import draw_losses

    batch, action_size = action.shape
    key_reference, key_redraws, key_advantage = jax.random.split(jax.random.key(config.seed + 1), 3)
    advantage = jax.random.normal(key_advantage, (batch,))

    def estimates(params: Any, key: Any, placement: str, measure: str, num_draws: int) -> tuple[Any, Any]:
        """(B,) ELBO and (B,) training loss (eps form, mean over dimensions) from one set of draws each."""
        weights = draw_weights(placement, num_draws)
        sample = lambda t_min: sample_draws(
            key, (batch,), num_draws, action_size, placement=placement, times=times, t_min=t_min
        )
        plain = sample(0.0)
        if measure == "log-uniform":
            draws = to_log_uniform(plain, delta=config.delta)
        else:
            draws = plain if placement == "grid" else sample(config.delta)
        losses = draw_losses(velocity_fn, params, obs, action, draws, form="velocity", reduction="sum")
        bound = elbo(
            losses, draws.t, action_size=action_size, delta=config.delta, time_measure=measure, weights=weights
        )
        trained = draw_losses(velocity_fn, params, obs, action, plain, form="eps", reduction="mean")
        return bound, trained @ weights

    def study(placement: str, measure: str) -> dict[str, Any]:
        def one(key: Any) -> tuple[Any, Any, Any, Any]:
            value = lambda p, i: jnp.mean(advantage * estimates(p, key, placement, measure, config.num_draws)[i])
            bound, loss = estimates(params, key, placement, measure, config.num_draws)
            flat = lambda i: ravel_pytree(jax.grad(value)(params, i))[0]
            return bound, loss, flat(0), flat(1)

        draws = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(key_redraws, config.redraws))
        bound, loss, bound_gradient, loss_gradient = draws
        return {
            "placement": placement,
            "time_measure": measure,
            "elbo_std": float(jnp.sqrt(jnp.mean(jnp.var(bound, axis=0, ddof=1)))),
            "elbo_bias": float(jnp.mean(bound) - reference_bound),
            "elbo_bias_se": float(jnp.std(jnp.mean(bound, axis=1), ddof=1)) / math.sqrt(config.redraws),
            "elbo_gradient_noise": _noise(bound_gradient),
            "loss_std": float(jnp.sqrt(jnp.mean(jnp.var(loss, axis=0, ddof=1)))) if measure == "uniform" else None,
            "loss_bias": float(jnp.mean(loss) - reference_loss) if measure == "uniform" else None,
            "loss_gradient_noise": _noise(loss_gradient) if measure == "uniform" else None,
        }

    many = lambda key: [x.mean() for x in estimates(params, key, "stratified", "log-uniform", 64)]
    reference_keys = jax.random.split(key_reference, 4 * config.redraws)
    reference = jax.jit(lambda keys: jax.lax.map(many, keys))(reference_keys)
    reference_bound, reference_loss = (float(x.mean()) for x in reference)
    rows = []
    for placement in PLACEMENTS:
        for measure in ("uniform",) if placement == "grid" else ("uniform", "log-uniform"):
            rows.append(study(placement, measure))
    return rows


def _noise(gradients: Any) -> float:
    """Noise over signal of R gradients (R, P): sqrt(trace of their covariance / |their mean|^2), the mean's own noise
    taken out."""
    import jax.numpy as jnp

    variance = float(jnp.sum(jnp.var(gradients, axis=0, ddof=1)))
    signal = float(jnp.sum(jnp.square(jnp.mean(gradients, axis=0)))) - variance / gradients.shape[0]
    return math.sqrt(variance / signal) if signal > 0 else math.inf


def _cells(row: dict[str, Any]) -> dict[str, str]:
    numbers = {title: "" if row[name] is None else f"{row[name]:.4f}" for name, title in COLUMNS}
    return {"placement": row["placement"], "t": row["time_measure"], **numbers}


if __name__ == "__main__":
    run_cli(parse, main)
