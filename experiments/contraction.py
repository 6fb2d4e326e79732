"""Does self-distillation keep the entropy? 50 rounds of it through eight samplers, nothing else going on.

    python -m experiments.contraction --out DIR

A flow policy that refits its own actions perfectly should stay what it is. Through a K-step Euler sampler it does not:
each round loses the fraction of the standard deviation that Euler cuts off (docs/bounds.md). Writes
DIR/result.json and DIR/contraction.png.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from dipod_jax.checks import require
from dipod_jax.cli import run_cli
from dipod_jax.tables import table
from experiments.twotoken import parse as parse_with_folder

TARGETS = ("gaussian", "two-modes")


class Arm(NamedTuple):
    """One way to distil: the sampler that acts, and what noise its actions are paired with."""

    name: str
    method: str
    num_steps: int
    grid: str = "uniform"
    own_pairs: bool = False


ARMS = (
    Arm("euler-10", "euler", 10),
    Arm("euler-64", "euler", 64),
    Arm("euler-10-refined", "euler", 10, "refined"),
    Arm("heun-10", "heun", 10),
    Arm("midpoint-5", "midpoint", 5),
    Arm("midpoint-10", "midpoint", 10),
    Arm("midpoint-20", "midpoint", 20),
    Arm("euler-10-own-pairs", "euler", 10, "uniform", True),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Pure self-distillation of a two-dimensional flow policy; its standard deviation round by round."""

    out: Path | None = None
    """Folder for the results, new or empty; runs/contraction/<time> where not given."""
    arms: tuple[str, ...] = tuple(arm.name for arm in ARMS)
    """Which samplers, one or more of: euler-10 euler-64 euler-10-refined heun-10 midpoint-5 midpoint-10 midpoint-20
    euler-10-own-pairs."""
    rounds: int = 50
    """Rounds of self-distillation, >= 1."""
    steps: int = 300
    """Adam steps in a round, >= 1."""
    batch: int = 1024
    """Fresh actions of the frozen policy per step, >= 2."""
    learning_rate: float = 3e-4
    """Initial learning rate of a round, decayed linearly to 0; positive and finite."""
    fit_steps: int = 4000
    """Adam steps of the initial fit to the target, >= 1."""
    target: str = "gaussian"
    """What the initial policy is fitted to: gaussian or two-modes."""
    std: float = 0.3
    """Standard deviation of the target (of each mode), in (0, 10]; the refined grid is laid out for it."""
    samples: int = 16384
    """Actions on which a standard deviation is measured, in [256, 1048576]."""
    seed: int = 0
    """Seed, >= 0."""

    def __post_init__(self) -> None:
        names = [arm.name for arm in ARMS]
        legal = len(self.arms) > 0 and set(self.arms) <= set(names)
        require(legal, "arms", " ".join(self.arms), " ".join(names))
        for name in ("rounds", "steps", "fit_steps"):
            require(getattr(self, name) >= 1, name.replace("_", "-"), getattr(self, name), "an integer of at least 1")
        require(self.batch >= 2, "batch", self.batch, "an integer of at least 2")
        require(256 <= self.samples <= 2**20, "samples", self.samples, "an integer in [256, 1048576]")
        require(0.0 < self.learning_rate < math.inf, "learning-rate", self.learning_rate, "positive and finite")
        require(self.target in TARGETS, "target", self.target, ", ".join(TARGETS))
        require(0.0 < self.std <= 10.0, "std", self.std, "in (0, 10]")
        require(0 <= self.seed < 2**31, "seed", self.seed, "an integer, 0 <= seed < 2^31")


def parse(argv: list[str]) -> Config:
    """The configuration in the arguments, its folder named and free."""
    return parse_with_folder(Config, "contraction", argv)


def main(config: Config) -> None:
    """Run every arm from the same fitted policy; print the table and where it is written."""
    from dipod_jax.runs.folder import RunFolder

    assert config.out is not None
    folder = RunFolder.create(config.out, dataclasses.asdict(config))
    result: dict[str, Any] = {"arms": []}
    distil = _Distillation(config)
    for arm in (arm for arm in ARMS if arm.name in config.arms):
        record = distil.run(arm)
        result["arms"].append(record)
        folder.write_result(result)  # at once: an interrupt must not cost the arms that are done
        print(f"{arm.name}: {record['seconds']:.0f} s", flush=True)
    print(table([_cells(record) for record in result["arms"]]))
    _plot(result["arms"], config.out / "contraction.png")
    print(f"written to {config.out}")


class _Distillation:
    """The fitted policy that every arm starts from, and the programs that distil and measure it."""

    def __init__(self, config: Config) -> None:
        import jax

        from dipod_jax.diagnostics.synthetic import fit_velocity, sample_target

        self.config = config
        self.key_fit, self.key_rounds, self.key_measure = jax.random.split(jax.random.key(config.seed), 3)
        self.velocity_fn, self.params = fit_velocity(
            self.key_fit,
            lambda key: sample_target(key, config.batch, target=config.target, std=config.std),
            batch=config.batch,
            num_steps=config.fit_steps,
        )

    def run(self, arm: Arm) -> dict[str, Any]:
        """All rounds of one arm: standard deviations before the first and after each, and the bound's gap at both
        ends."""
        import jax

        from dipod_jax.bounds import time_grid

        start = time.perf_counter()
        times = time_grid(arm.num_steps, kind=arm.grid, data_std=self.config.std)
        distil = jax.jit(lambda params, key: self._round(arm, times, params, key))
        measure = jax.jit(lambda params: self._measure(arm, times, params))
        params, before = self.params, measure(self.params)
        stds = [float(before["std"])]
        after = before
        for key in jax.random.split(self.key_rounds, self.config.rounds):
            params = distil(params, key)
            after = measure(params)
            stds.append(float(after["std"]))
        return {
            "name": arm.name,
            **arm._asdict(),
            "std": stds,
            "ratio": stds[-1] / stds[0],
            "gap_before": float(before["gap"]),
            "gap_after": float(after["gap"]),
            "theory": self._theory(arm, times, stds[0]),
            "seconds": round(time.perf_counter() - start, 1),
        }

    def _round(self, arm: Arm, times: Any, params: Any, key: Any) -> Any:
        """Adam on the velocity loss of fresh actions of the frozen policy; ``own_pairs`` puts their base noise in
        eps."""
        import jax
        import jax.numpy as jnp
        import optax

        from dipod_jax.bounds import Draws, integrate
        from dipod_jax.diagnostics import draw_losses

        config = self.config
        optimizer = optax.adam(optax.linear_schedule(config.learning_rate, 0.0, config.steps))
        obs = jnp.zeros((config.batch, 1))

        def loss_fn(candidate, action, draws):
            losses = draw_losses(self.velocity_fn, candidate, obs, action, draws, form="velocity", reduction="sum")
            return jnp.mean(losses)

        def step(carry, key):
            candidate, opt_state = carry
            key_noise, key_eps, key_t = jax.random.split(key, 3)
            noise = jax.random.normal(key_noise, (config.batch, 2))
            action = integrate(lambda x, t: self.velocity_fn(params, obs, x, t), noise, times, method=arm.method)
            eps = noise if arm.own_pairs else jax.random.normal(key_eps, noise.shape)
            draws = Draws(jax.random.uniform(key_t, (config.batch, 1)), eps[:, None])
            gradient = jax.grad(loss_fn)(candidate, action, draws)
            updates, opt_state = optimizer.update(gradient, opt_state, candidate)
            return (optax.apply_updates(candidate, updates), opt_state), None

        start = (params, optimizer.init(params))
        return jax.lax.scan(step, start, jax.random.split(key, config.steps))[0][0]

    def _measure(self, arm: Arm, times: Any, params: Any) -> dict[str, Any]:
        """Standard deviation of the acting sampler (mean over dimensions), and E[log pi - ELBO] of its actions."""
        import jax
        import jax.numpy as jnp

        from dipod_jax.bounds import integrate, log_prob_of_noise
        from dipod_jax.diagnostics import elbo_of_actions
        from dipod_jax.diagnostics.batch import masked_mean

        key_noise, key_elbo = jax.random.split(self.key_measure)
        noise = jax.random.normal(key_noise, (self.config.samples, 2))
        noise = (noise - jnp.mean(noise, axis=0)) / jnp.std(noise, axis=0)  # takes out the measurement's own error
        obs = jnp.zeros((self.config.samples, 1))
        action = integrate(lambda x, t: self.velocity_fn(params, obs, x, t), noise, times, method=arm.method)
        few = slice(2048)
        exact = log_prob_of_noise(self.velocity_fn, params, obs[few], noise[few], times, method=arm.method)
        bound = elbo_of_actions(self.velocity_fn, params, obs[few], action[few], key_elbo, delta=0.01, num_draws=32)
        return {"std": jnp.mean(jnp.std(action, axis=0)), "gap": masked_mean(exact.log_prob - bound, exact.valid)}

    def _theory(self, arm: Arm, times: Any, std: float) -> float:
        """std after all rounds over std before, for Gaussian actions and a perfect fit (docs/bounds.md)."""
        import jax
        import jax.numpy as jnp

        from dipod_jax.bounds import integrate
        from dipod_jax.diagnostics.synthetic import gaussian_velocity

        if arm.own_pairs:
            return 1.0  # the pairs lie on straight lines, which Euler follows without error

        def one_round(s: Any, _: None) -> tuple[Any, None]:
            field = lambda x, t: gaussian_velocity(s, x, x, t)
            return integrate(field, jnp.ones((1, 1)), times, method=arm.method)[0, 0], None

        return float(jax.lax.scan(one_round, jnp.float32(std), length=self.config.rounds)[0] / std)


def _cells(record: dict[str, Any]) -> dict[str, str]:
    kept = "kept" if abs(record["ratio"] - 1.0) <= 0.05 else "lost"
    return {
        "sampler": record["name"],
        "std, start": f"{record['std'][0]:.4f}",
        "std, end": f"{record['std'][-1]:.4f}",
        "ratio": f"{record['ratio']:.3f} ({kept})",
        "theory": f"{record['theory']:.3f}",
        "gap, start": f"{record['gap_before']:.3f}",
        "gap, end": f"{record['gap_after']:.3f}",
    }


def _plot(records: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.0, 4.8), layout="constrained")
    for index, record in enumerate(records):
        ratios = [value / record["std"][0] for value in record["std"]]
        dashes = "--" if record["own_pairs"] else "-"
        label = f"{record['name']}  ({ratios[-1]:.2f})"
        axes.plot(range(len(ratios)), ratios, dashes, color=f"C{index}", label=label)
    axes.axhspan(0.95, 1.05, color="0.9", zorder=0, label="within 5 %")
    axes.set(xlabel="round of self-distillation", ylabel="standard deviation / its start", ylim=(0.0, None))
    axes.margins(x=0.01)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="sampler (last value)")
    axes.set_title("Distilling a flow policy on its own actions", loc="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    run_cli(parse, main)
