"""Films and frames hold the episodes they are given; where nothing can be drawn, one line says so."""

import os
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import mujoco
import numpy as np
import pytest
from PIL import Image

from dipod_jax.viz import RenderingUnavailable, write_frame, write_video
from dipod_jax.viz.rendering import Renderer
from dipod_jax.viz.video import _encoder, frame_steps

XML = """
<mujoco>
  <worldbody>
    <light pos="0 0 2" directional="true"/>
    <geom type="plane" size="1 1 .1" rgba=".3 .4 .5 1"/>
    <camera name="front" pos="0 -.95 .4" xyaxes="1 0 0 0 0 1"/>
    <camera name="above" pos="0 0 2" xyaxes="1 0 0 0 1 0"/>
    <body pos="0 0 .4"><joint type="slide" axis="1 0 0"/><geom type="sphere" size=".1" rgba="1 .5 0 1"/></body>
    <body name="target" mocap="true" pos="0 0 .1"><geom type="box" size=".05 .05 .05" rgba="0 1 0 1"/></body>
  </worldbody>
</mujoco>
"""
T, E = 41, 2


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    model = mujoco.MjModel.from_xml_string(XML)
    try:
        Renderer(model, 64, 64).close()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    return model


@pytest.fixture(scope="module")
def qpos() -> np.ndarray:
    """(T, E, 1): the first ball rolls from left to right, the second stays."""
    return np.stack([np.linspace(-0.4, 0.4, T), np.zeros(T)], axis=1)[..., None]


@pytest.fixture(scope="module")
def film(model, qpos, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "policy.mp4"
    write_video(model, qpos, np.ones((T, E)), path, fps=25, width_per_episode=160, height=128)
    return path


def picture(model, path, qpos, reward=None, **options) -> np.ndarray:
    reward = np.zeros(np.shape(qpos)[:2]) if reward is None else reward
    write_frame(model, qpos, reward, path, **{"width_per_episode": 160, "height": 128, **options})
    return np.asarray(Image.open(path).convert("RGB"), int)


def test_an_episode_of_1000_steps_plays_in_ten_seconds_and_ends_on_its_last_step():
    assert frame_steps(1000, 25)[:3] == [0, 4, 8] and frame_steps(1000, 25)[-1] == 999
    assert len(frame_steps(1000, 25)) == 251 and len(frame_steps(1000, 50)) == 501
    assert frame_steps(1, 25) == [0] and frame_steps(41, 25)[-2:] == [36, 40]


def test_the_film_has_every_fourth_step_at_the_size_and_codec_asked_for(film):
    with imageio.get_reader(film) as reader:
        meta = reader.get_meta_data()
        frames = [np.asarray(frame, int) for frame in reader.iter_data()]
    assert len(frames) == len(frame_steps(T, 25)) == 11
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 25.0
    assert {frame.shape for frame in frames} == {(128, 320, 3)}
    content = film.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")  # plays while it loads
    assert [path.name for path in film.parent.iterdir()] == ["policy.mp4"]


def test_frames_differ_where_something_moves_and_agree_where_nothing_does(film):
    with imageio.get_reader(film) as reader:
        first, last = (np.asarray(reader.get_data(index), int)[16:] for index in (0, 10))
    moving, still = np.abs(first - last)[:, :156], np.abs(first - last)[:, 164:]
    assert (moving.max(axis=-1) > 60).mean() > 0.01
    assert (still.max(axis=-1) > 60).mean() < 0.001


def test_the_return_so_far_is_in_the_caption_and_nowhere_else(model, qpos, tmp_path):
    reward = np.zeros((T, E))
    before = picture(model, tmp_path / "a.png", qpos, reward, step=20)
    reward[20, 1], reward[21, 0] = 7.0, 9.0
    after = picture(model, tmp_path / "b.png", qpos, reward, step=20)
    changed = (before != after).any(axis=-1)
    rows, columns = np.nonzero(changed)
    caption_height = 20
    assert changed.sum() > 20 and rows.max() < caption_height and columns.min() >= 160


def test_the_caption_is_white_antialiased_text_on_a_dark_strip(model, qpos, tmp_path):
    caption = picture(model, tmp_path / "a.png", qpos)[:20, :160].max(axis=-1)
    assert (caption > 245).sum() > 40 and (caption < 40).mean() > 0.5
    assert ((caption > 60) & (caption < 220)).sum() > 40


def test_a_frame_shows_the_step_asked_for(model, qpos, tmp_path):
    def ball_column(step: int) -> float:
        shown = picture(model, tmp_path / "a.png", qpos, step=step)[20:, :156]
        orange = (shown[..., 0] > 120) & (shown[..., 2] < 60) & (shown[..., 0] > 1.5 * shown[..., 1])
        return float(np.nonzero(orange)[1].mean())

    assert ball_column(0) < 60 < 70 < ball_column(20) < 85 < 95 < ball_column(-1)


def test_a_film_leaves_its_last_frame(model, qpos, tmp_path):
    size = {"width_per_episode": 160, "height": 128}
    write_video(model, qpos, np.ones((T, E)), tmp_path / "a.mp4", last_frame=tmp_path / "a.png", **size)
    alone = picture(model, tmp_path / "b.png", qpos, np.ones((T, E)))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png"), int), alone)


@pytest.mark.parametrize("name", ["12:30:05", "-y", "50%d", "a b\n$(c) [red] 'x'"])
def test_a_film_goes_into_a_folder_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = Path(name) / "policy.mp4"
    path.parent.mkdir()
    with _encoder(path, 64, 64, 25) as write:
        write(bytes(64 * 64 * 3))
    assert path.stat().st_size > 0


def test_an_encoder_that_fails_is_an_error_with_its_words_and_leaves_no_film(model, qpos, tmp_path, monkeypatch):
    import imageio_ffmpeg

    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\necho disk full >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(broken))
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError, match=r"ffmpeg could not write .*: disk full"):
        write_video(model, qpos, np.zeros((T, E)), tmp_path / "out" / "a.mp4")
    assert list((tmp_path / "out").iterdir()) == []


def test_filming_beside_jax_runs_no_python_between_fork_and_exec(model, qpos, tmp_path, recwarn):
    import jax

    jax.devices()
    write_video(model, qpos[:5], np.zeros((5, E)), tmp_path / "a.mp4", width_per_episode=64, height=64)
    assert [warning for warning in recwarn if "fork" in str(warning.message)] == []


def test_up_is_up(model, qpos, tmp_path):
    shown = picture(model, tmp_path / "a.png", qpos, step=0)[20:, 160:]
    ball = np.nonzero((shown[..., 0] > 120) & (shown[..., 2] < 60))[0]
    box = np.nonzero((shown[..., 1] > 100) & (shown[..., 0] < 60) & (shown[..., 2] < 60))[0]
    assert ball.size > 20 and box.size > 20 and ball.mean() + 10 < box.mean()  # rows count downwards


def test_mocap_bodies_stand_where_they_are_put_and_default_to_the_models_place(model, qpos, tmp_path):
    place = np.broadcast_to(np.array([0.0, 0.0, 0.1]), (T, E, 1, 3))
    default = picture(model, tmp_path / "a.png", qpos)
    np.testing.assert_array_equal(picture(model, tmp_path / "b.png", qpos, mocap_pos=place), default)
    moved = picture(model, tmp_path / "c.png", qpos, mocap_pos=place + np.array([0.3, 0.0, 0.3]))
    assert (np.abs(moved - default).max(axis=-1) > 60).mean() > 0.01
    turned = np.broadcast_to(np.array([0.92, 0.0, 0.38, 0.0]), (T, E, 1, 4))
    assert (picture(model, tmp_path / "d.png", qpos, mocap_quat=turned) != default).any()


def test_cameras_are_chosen_by_name_or_index_and_the_first_is_the_default(model, qpos, tmp_path):
    default = picture(model, tmp_path / "a.png", qpos)
    np.testing.assert_array_equal(picture(model, tmp_path / "b.png", qpos, camera="front"), default)
    above = picture(model, tmp_path / "c.png", qpos, camera=1)
    np.testing.assert_array_equal(picture(model, tmp_path / "d.png", qpos, camera="above"), above)
    assert (above != default).any()
    with pytest.raises(ValueError, match="camera 'behind' is not allowed: one of front, above"):
        picture(model, tmp_path / "e.png", qpos, camera="behind")
    bare = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    free = picture(bare, tmp_path / "f.png", np.tile([0.0, 0, 0, 1, 0, 0, 0], (1, 1, 1)))
    assert free[20:].std() > 5


def test_the_callers_model_keeps_its_settings(model, qpos, tmp_path):
    assert model.vis.quality.shadowsize != 1024
    before = model.vis.quality.shadowsize
    picture(model, tmp_path / "a.png", qpos)
    assert model.vis.quality.shadowsize == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qpos": np.zeros((T, E, 2))}, r"qpos of shape \(41, 2, 2\) is not allowed: \(41, 2, 1\)"),
        ({"qpos": np.full((T, E, 1), np.nan)}, "qpos is not finite at step 0 of episode 0"),
        ({"reward": np.zeros((E, T))}, r"reward of shape \(2, 41\) is not allowed: \(41, 2\)"),
        ({"qpos": np.zeros((0, E, 1)), "reward": np.zeros((0, E))}, "at least one step"),
        ({"mocap_pos": np.zeros((T, E, 2, 3))}, r"mocap_pos of shape \(41, 2, 2, 3\) is not allowed: \(41, 2, 1, 3\)"),
        ({"height": 127}, "height 127 is not allowed: an even number from 64 on"),
        ({"fps": 0}, "fps 0 is not allowed: 1 to 100"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_leave_no_file(model, qpos, tmp_path, change, message):
    arguments = {"qpos": qpos, "reward": np.zeros((T, E)), "path": tmp_path / "a.mp4", **change}
    with pytest.raises(ValueError, match=message):
        write_video(model, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("bogus", "MUJOCO_GL=bogus is not allowed: one of egl, osmesa, glfw, cgl"),
        ("disable", "switched off by MUJOCO_GL=disable"),
        ("cgl", "no OpenGL context .cgl: "),
    ],
)
def test_a_backend_that_cannot_draw_is_one_line_and_leaves_no_file(tmp_path, monkeypatch, qpos, value, message):
    if sys.platform == "darwin" and value == "cgl":
        pytest.skip("cgl is what a Mac draws with")
    monkeypatch.setenv("MUJOCO_GL", value)
    model = mujoco.MjModel.from_xml_string(XML)
    with pytest.raises(RenderingUnavailable, match=message) as caught:
        write_video(model, qpos, np.zeros((T, E)), tmp_path / "a.mp4")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="EGL is how Linux draws without a display")
def test_a_machine_without_an_egl_driver_gets_one_line(tmp_path):
    code = f"""
import mujoco, numpy as np
from pathlib import Path
from dipod_jax.viz import RenderingUnavailable, write_video
model = mujoco.MjModel.from_xml_string({XML!r})
try:
    write_video(model, np.zeros((3, 1, 1)), np.zeros((3, 1)), Path("a.mp4"))
except RenderingUnavailable as error:
    print(str(error).count(chr(10)), str(error)[:24], "libegl1" in str(error))
"""
    hidden = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")}
    hidden |= {"__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=hidden, capture_output=True, text=True)
    assert done.stdout == "0 no OpenGL context (egl:  True\n", done.stderr
    assert list(tmp_path.iterdir()) == []
