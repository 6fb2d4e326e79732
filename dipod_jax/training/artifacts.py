"""What a finished run shows: curves, a video, a report."""

from __future__ import annotations

from collections.abc import Callable
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
    evaluations: list[dict[str, Any]],
    note: str | None,
    say: Callable[[str], None],
) -> None:
    """Write returns.png, drift.png where it was measured, policy.mp4 (first seed), report.html.

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
        first = jax.tree.map(lambda x: x[0], learner)
        acting = programs.evaluation_env.on_one_device(), programs.policy, first.params["policy"], first.obs_statistics
        write_policy_video(*acting, folder.path / "policy.mp4", jax.random.fold_in(first.key, VIDEO), say)

    parts = {"returns.png": draw_returns, "drift.png": draw_drift, "policy.mp4": film}
    for name, draw in {**parts, "report.html": lambda: write_report(folder)}.items():
        try:
            draw()
        except Exception as error:
            say(f"warning: no {name} ({reason_of(error)}); the run is finished without it")


def write_policy_video(
    env: BatchedEnv,
    policy: Policy,
    params: Params,
    statistics: RunningStatistics,
    path: Path,
    key: jax.Array,
    say: Callable[[str], None],
) -> bool:
    """Film a few episodes side by side with the return burnt in, and its last frame as a PNG of the same name.

    Returns:
        False, after one warning, where no OpenGL works.
    """
    from dipod_jax.viz import RenderingUnavailable, write_frame, write_video

    run = jax.jit(lambda k: record(env, policy, params, statistics, k, VIDEO_EPISODES))
    episode = jax.tree.map(np.asarray, run(key))
    mocap = {"mocap_pos": episode.mocap_pos, "mocap_quat": episode.mocap_quat} if env.mj_model.nmocap else {}
    try:
        size = {"width_per_episode": VIDEO_SIZE, "height": VIDEO_SIZE}
        write_video(env.mj_model, episode.qpos, episode.reward, path, fps=VIDEO_FPS, **size, **mocap)
        frame = path.with_suffix(".png")
        write_frame(env.mj_model, episode.qpos, episode.reward, frame, **mocap)
    except RenderingUnavailable as error:
        say(f"warning: no video: {error}")
        return False
    return True
