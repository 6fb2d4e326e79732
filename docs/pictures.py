"""The pictures of the concept pages, drawn by the library itself into docs/figures:

python docs/pictures.py flow bound drift dipod
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dipod_jax.bounds import (
    elbo,
    gaussian_velocity,
    integrate,
    ode_log_prob_of_action,
    sample_draws,
    time_grid,
    to_log_uniform,
)
from dipod_jax.diagnostics.batch import draw_losses
from dipod_jax.toys.two_tokens import OUTPUTS, train
from dipod_jax.viz._style import COLOURS, PALE_INK, figure

FIGURES = Path(__file__).parent / "figures"
BLUE, RED, GREEN = COLOURS[:3]
MODES, SPREAD = jnp.array([-1.2, 1.2]), 0.25


def two_mode_velocity(x: Array, t: Array) -> Array:
    """The optimal velocity E[eps - a | x_t = x] for actions that are +-1.2 with spread .25, half each; x (B, 1)."""
    variance = (1 - t) ** 2 * SPREAD**2 + t**2
    off = x - (1 - t) * MODES  # (B, 2), from the centre of each mode at time t
    share = jax.nn.softmax(-(off**2) / (2 * variance), axis=-1)
    toward = off * (t - (1 - t) * SPREAD**2) / variance - MODES
    return jnp.sum(share * toward, axis=-1, keepdims=True)


def draw_flow(path: Path) -> None:
    """Left: noise carried along the velocity to one of two actions. Right: the actions, and the best Gaussian."""
    times = time_grid(40, kind="uniform")
    noise = jax.random.normal(jax.random.key(0), (4000, 1))
    states = np.asarray(integrate(two_mode_velocity, noise, times, method="midpoint", return_path=True))[..., 0]
    with figure(path, 9, 3.4) as drawing:
        left, right = drawing.subplots(1, 2, width_ratios=(2, 1), sharey=True)
        for action in states[:, :60].T:
            left.plot(times, action, color=BLUE if action[-1] > 0 else RED, lw=0.9, alpha=0.7)
        left.set(xlim=(1, 0), ylim=(-3, 3), xlabel="time t: noise at 1, action at 0", ylabel="x")
        left.set_title("a flow: the velocity carries noise to an action", loc="left")
        grid = np.linspace(-3, 3, 200)
        spread = states[-1].std()
        right.hist(states[-1], bins=60, density=True, orientation="horizontal", color=BLUE, alpha=0.5, label="flow")
        gaussian = np.exp(-(grid**2) / (2 * spread**2)) / (spread * np.sqrt(2 * np.pi))
        right.plot(gaussian, grid, color=PALE_INK, label="best Gaussian")
        right.set_title("its actions", loc="left")
        right.set_xlabel("density")
        right.legend(loc="upper right")


def bent_velocity(bend: float, obs: Array, x: Array, t: Array) -> Array:
    """The optimal velocity for actions N(0, .5^2), plus a detour that the path has made up for when it arrives."""
    column = t[..., None] if jnp.ndim(t) else t
    return gaussian_velocity(0.5, obs, x, t) + bend * jnp.sin(2 * jnp.pi * column) * x


def draw_bound(path: Path) -> None:
    """Two fields whose actions have the same likelihood: the bound is tight for one of them alone."""
    action = jnp.linspace(-1.5, 1.5, 31)[:, None]
    obs, times, delta = jnp.zeros((31, 1)), time_grid(100, kind="uniform"), 0.02
    draws = to_log_uniform(sample_draws(jax.random.key(0), (1,), 8192, 1, placement="stratified"), delta=delta)
    draws = jax.tree.map(lambda x: jnp.repeat(x, 31, axis=0), draws)  # the same for every action: smooth curves
    with figure(path, 9, 3.4) as drawing:
        paths, tight, loose = drawing.subplots(1, 3)
        for bend, colour, label, axes in ((0.0, BLUE, "optimal field", tight), (1.5, RED, "bent field", loose)):
            field = partial(bent_velocity, bend)
            noise = jnp.linspace(-2, 2, 7)[:, None]
            flow = integrate(lambda x, t, f=field: f(obs[:7], x, t), noise, times, method="midpoint", return_path=True)
            paths.plot(times, flow[..., 0], color=colour, lw=1)
            velocity = lambda bend, obs, x, t: bent_velocity(bend, obs, x, t)
            log_prob = ode_log_prob_of_action(velocity, bend, obs, action, times)
            losses = draw_losses(velocity, bend, obs, action, draws, form="velocity", reduction="sum")
            bound = elbo(losses, draws.t, action_size=1, delta=delta, time_measure="log-uniform")
            axes.plot(action[:, 0], log_prob, color="black", label="log-likelihood")
            axes.plot(action[:, 0], bound, color=colour, ls="--", label="ELBO")
            axes.fill_between(action[:, 0], bound, log_prob, color=colour, alpha=0.15, lw=0)
            axes.set(xlabel="action", ylim=(-7, 0.5))
            axes.set_title(label, loc="left")
            axes.legend(loc="lower center")
        tight.set_ylabel("nats")
        paths.set(xlim=(1, 0), xlabel="time t: noise at 1, action at 0", ylabel="x")
        paths.set_title("same actions, other paths", loc="left")


def draw_drift(path: Path) -> None:
    """Two tokens under FPO: the two unmasking orders of each output come apart, and with them bound and likelihood."""
    steps = (0, 150, 1500)
    curves = train(["fpo"], [0.5], steps=steps[-1])
    with figure(path, 9, 3.2) as drawing:
        panels = drawing.subplots(1, 3, sharey=True)
        for axes, step in zip(panels, steps, strict=True):
            first, second = order_probabilities(curves.logits[0, 0, step])
            axes.bar(np.arange(4) - 0.2, first, 0.38, color=BLUE, label="position 1 first")
            axes.bar(np.arange(4) + 0.2, second, 0.38, color=RED, label="position 2 first")
            axes.set_xticks(range(4), OUTPUTS)
            gap, cosine = curves.mean_gap[0, 0, step], curves.gradient_cosine[0, 0, step]
            axes.set_title(f"step {step}\ngap {gap:.3f}, cosine {cosine:.2f}", loc="left")
            axes.set(yscale="log", ylim=(0.01, 1))
            axes.yaxis.set_major_formatter("{x:g}")
        panels[0].set_ylabel("probability under one order")
        panels[0].legend(loc="upper right")


def order_probabilities(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(4,) and (4,): w1 and w2 of AA, AB, BA, BB from the six log-odds of `dipod_jax.toys.two_tokens.LOGIT_NAMES`."""
    a, b, c, d, e, f = 1 / (1 + np.exp(-np.asarray(logits)))
    first = np.array([b * c, b * (1 - c), (1 - b) * f, (1 - b) * (1 - f)])
    return first, np.array([d * a, (1 - d) * e, d * (1 - a), (1 - d) * (1 - e)])


def draw_dipod(path: Path) -> None:
    """Gap, cosine and reward of two tokens under FPO with four betas."""
    panels = (
        ("mean_gap", "mean gap (nats)"),
        ("gradient_cosine", "cosine, exact gradient"),
        ("expected_reward", "expected reward"),
    )
    with figure(path, 9, 3.2) as drawing:
        all_axes = drawing.subplots(1, 3)
        for beta, colour in zip((0.0, 0.05, 0.2, 0.8), (RED, *COLOURS[3:5], BLUE), strict=True):
            curves = train(["fpo+dipod"], [0.5], beta=beta)
            for axes, (name, title) in zip(all_axes, panels, strict=True):
                axes.plot(getattr(curves, name)[0, 0], color=colour, lw=1.8, label=f"beta {beta:g}")
                axes.set_title(title, loc="left")
                axes.set_xlabel("step")
        all_axes[0].set(yscale="log", ylim=(1e-4, 0.1))
        all_axes[0].yaxis.set_major_formatter("{x:g}")
        all_axes[2].legend(loc="lower right")


def main() -> None:
    draw = {"flow": draw_flow, "bound": draw_bound, "drift": draw_drift, "dipod": draw_dipod}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=draw)
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the pictures")
    options = parser.parse_args()
    for name in options.names:
        draw[name](options.out / f"concept_{name}.png")


if __name__ == "__main__":
    main()
