r"""What a policy of one action dimension does along an episode, state by state: its density, and its bound's gap.

dipod train --task CartpoleSwingup --preset cpu --total-steps 2000000 --out runs/swingup
python docs/densities.py runs/swingup --out density.png
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax import envs
from dipod_jax.bounds import log_prob_of_noise
from dipod_jax.diagnostics.batch import MeterSettings
from dipod_jax.diagnostics.gap import elbo_of_actions
from dipod_jax.training.evaluation import make_act
from dipod_jax.training.loading import restore_policy
from dipod_jax.training.setup import import_mujoco
from dipod_jax.viz._style import COLOURS, INK, figure

EDGES = np.linspace(-1, 1, 61)
GAPS = 0, 1, 3, 10, 30


class Along(NamedTuple):
    """One episode of T states."""

    seconds: np.ndarray  # (T,)
    reward: np.ndarray  # (T,)
    density: np.ndarray  # (T, 60) of the action that the environment is given, each row with a largest value of 1
    action: np.ndarray  # (T,) the one that was taken
    gap: np.ndarray  # (T,) log-likelihood less ELBO, nats, median over actions drawn in that state


def along_an_episode(run_dir: Path, *, seed: int | None, num_actions: int, num_draws: int) -> Along:
    """Act for one episode with fresh base noise, then draw `num_actions` in each of its states."""
    trained = restore_policy(run_dir, seed)
    policy, params = trained.policy, trained.params
    if policy.action_size != 1 or policy.field is None:
        raise SystemExit(f"{run_dir}: drawn state by state are flows of one action dimension alone")
    env = envs.make(trained.config.task, backend="native")

    act = make_act(policy, params, trained.statistics)

    def step(state, key):
        action = act(state.obs, jax.random.normal(key, (1, 1)))
        following, result = env.step(state, action)
        return following, (trained.statistics.normalise(state.obs)[0], action[0, 0], result.reward[0])

    start = env.reset(jax.random.key(0), 1, num_starts=1)
    step_keys = jax.random.split(jax.random.key(1), env.episode_length)
    _, (obs, action, reward) = jax.lax.scan(step, start, step_keys)

    def in_a_state(key, obs):
        noise_key, draw_key = jax.random.split(key)
        obs = jnp.broadcast_to(obs, (num_actions, len(obs)))
        likelihood = log_prob_of_noise(
            policy.velocity,
            params,
            obs,
            jax.random.normal(noise_key, (num_actions, 1)),
            policy.times,
            method=policy.method,
        )
        bound = elbo_of_actions(
            policy.velocity,
            params,
            obs,
            likelihood.action,
            draw_key,
            delta=MeterSettings().delta,
            num_draws=num_draws,
        )
        gap = jnp.nanmedian(jnp.where(likelihood.valid, likelihood.log_prob - bound, jnp.nan))
        return policy.squash(likelihood.action)[:, 0], gap

    keys = jax.random.split(jax.random.key(2), len(obs))
    drawn, gap = jax.lax.map(lambda args: in_a_state(*args), (keys, obs))
    counts = np.stack([np.histogram(row, EDGES)[0] for row in np.asarray(drawn)])
    density = counts / counts.max(axis=1, keepdims=True)
    return Along(np.arange(len(obs)) * env.dt, *(np.asarray(x) for x in (reward, density, action, gap)))


def draw(episodes: list[Along], labels: list[str], path: Path) -> None:
    """A column for each run: reward, actions and gap over the seconds of the episode."""
    with figure(path, 4.6 * len(episodes), 6) as drawing:
        axes = drawing.subplots(3, len(episodes), sharex="col", sharey="row", squeeze=False, height_ratios=(1, 1.6, 1))
        for column, (along, label) in enumerate(zip(episodes, labels, strict=True)):
            top, middle, bottom = axes[:, column]
            top.plot(along.seconds, along.reward, color=COLOURS[0], lw=1.2)
            top.set_title(f"{label}: {along.reward.sum():.0f}", loc="left")
            middle.pcolormesh(along.seconds, EDGES, along.density.T[:, :-1], cmap="Greys", vmin=0, vmax=1)
            middle.plot(along.seconds, along.action, ".", color=COLOURS[1], ms=1.5)
            middle.grid(False)
            bottom.plot(along.seconds, along.gap, color=INK, lw=0.8)
            bottom.set_xlabel("seconds")
        for row, name in enumerate(("reward", "action", "gap (nats)")):
            axes[row, 0].set_ylabel(name)
        axes[0, 0].set_ylim(0, 1.05)
        axes[2, 0].set_yscale("symlog", linthresh=1)
        axes[2, 0].set_yticks(GAPS, [str(gap) for gap in GAPS])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of one action dimension")
    parser.add_argument("--labels", nargs="+", help="one for each run, default: the folders' names")
    parser.add_argument("--seed", type=int, help="of each run's seeds, default: its first")
    parser.add_argument("--actions", type=int, default=256, help="drawn in each state")
    parser.add_argument("--draws", type=int, default=64, help="of the ELBO of each action")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    import_mujoco()
    episodes = [
        along_an_episode(run, seed=args.seed, num_actions=args.actions, num_draws=args.draws) for run in args.runs
    ]
    draw(episodes, args.labels or [run.name for run in args.runs], args.out)
