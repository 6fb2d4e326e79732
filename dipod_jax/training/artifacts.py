"""What a finished run shows: curves, a video, a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dipod_jax.config import Config
from dipod_jax.envs import BatchedEnv
from dipod_jax.policies import Policy
from dipod_jax.runs import RunFolder, reason_of
from dipod_jax.training.evaluation import record
from dipod_jax.training.programs import Programs
from dipod_jax.training.state import VIDEO, LearnerState
from dipod_jax.training.statistics import RunningStatistics
from dipod_jax.types import Params

VIDEO_EPISODES = 4
VIDEO_FPS = 15
VIDEO_SIZE = 256  # pixels of an episode's square; where a CPU draws, frames and pixels are what a film costs


def write_artifacts(
    config: Config,
    folder: RunFolder,
    programs: Programs,
    learner: LearnerState,
    final_returns: Sequence[float | None],
    evaluations: list[dict[str, Any]],
    note: str | None,
    say: Callable[[str], None],
) -> None:
    """Write returns.png, drift.png where it was measured, the films of the seeds with the best and with the worst final
    return, report.html.

    What cannot be drawn or written is left out after one warning: the run is finished without it.
    """
    from dipod_jax.report import write_report
    from dipod_jax.viz import has_drift, plot_drift, plot_returns

    def draw_returns() -> None:
        title = f"{config.task}: {config.objective.name}, beta {config.beta_label}, {config.preset} preset"
        plot_returns(evaluations, folder.path / "returns.png", title=title, note=note)

    def draw_drift() -> None:
        records = [r for r in folder.read_metrics() if r["kind"] != "evaluation"]
        if has_drift(records):
            plot_drift(records, evaluations, folder.path / "drift.png")

    def film() -> None:
        takes = {}
        for index in best_and_worst(final_returns):
            seed = jax.tree.map(lambda x, i=index: x[i], learner)
            takes[folder.film(config.all_seeds[index])] = (
                seed.params["policy"],
                seed.obs_statistics,
                jax.random.fold_in(seed.key, VIDEO),
            )
        earlier = {*folder.path.glob("policy.mp4"), *folder.path.glob("policy-seed*.mp4")}  # of a shorter run
        if write_policy_videos(programs.evaluation_env.on_one_device(), programs.policy, takes, say):
            for old in earlier - takes.keys():
                for file in (old, old.with_suffix(".png")):
                    file.unlink(missing_ok=True)

    parts = {"returns.png": draw_returns, "drift.png": draw_drift, "film": film}
    for name, draw in {**parts, "report.html": lambda: write_report(folder)}.items():
        try:
            draw()
        except Exception as error:
            say(f"warning: no {name} ({reason_of(error)}); the run is finished without it")


def best_and_worst(returns: Sequence[float | None]) -> list[int]:
    """Indices of the best return and, where there are several, of the worst; what is not known is worse than any."""
    order = np.argsort([-np.inf if value is None or np.isnan(value) else value for value in returns])
    return list(dict.fromkeys([int(order[-1]), int(order[0])]))


def write_policy_videos(
    env: BatchedEnv,
    policy: Policy,
    takes: Mapping[Path, tuple[Params, RunningStatistics, jax.Array]],
    say: Callable[[str], None],
) -> bool:
    """Film a few episodes side by side with the return burnt in, and the last frame as a PNG of the same name.

    Args:
        takes: the file of each film -> the parameters and the statistics that act, and a key. The episodes are divided
            among the films, so that two cost what one does.

    Returns:
        False, after one warning, where no OpenGL works.
    """
    from dipod_jax.viz import RenderingUnavailable, write_video

    run = jax.jit(partial(record, env, policy, num_episodes=VIDEO_EPISODES // len(takes)))
    look = {"fps": VIDEO_FPS, "width_per_episode": VIDEO_SIZE, "height": VIDEO_SIZE}
    for path, take in takes.items():
        episode = jax.tree.map(np.asarray, run(*take))
        mocap = {"mocap_pos": episode.mocap_pos, "mocap_quat": episode.mocap_quat} if env.mj_model.nmocap else {}
        try:
            frame = path.with_suffix(".png")
            write_video(env.mj_model, episode.qpos, episode.reward, path, last_frame=frame, **look, **mocap)
        except RenderingUnavailable as error:
            say(f"warning: no film: {error}")
            return False
    return True
