"""Episodes side by side as a film, with the return so far written into the picture."""

# mujoco takes its names from extension modules without stubs.
# pyright: reportAttributeAccessIssue=false

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dipod_jax.runs._disk import replacing
from dipod_jax.viz.rendering import Renderer

if TYPE_CHECKING:
    import mujoco
    from PIL.ImageFont import FreeTypeFont

# An episode of the suite, 1000 steps, plays in about this long: fast enough to watch, slow enough to see.
SECONDS_PER_1000_STEPS = 10.0
_CAPTION_COLOUR = (20, 24, 32)


def write_video(
    mj_model: "mujoco.MjModel",
    qpos: np.ndarray,
    reward: np.ndarray,
    path: Path,
    *,
    last_frame: Path | None = None,
    mocap_pos: np.ndarray | None = None,
    mocap_quat: np.ndarray | None = None,
    fps: int = 25,
    width_per_episode: int = 320,
    height: int = 320,
    camera: int | str | None = None,
) -> None:
    """Film E episodes side by side (H.264, yuv420p, index at the front, so that it plays while loading).

    Every `round(100 / fps)`-th step is a frame, and so is the last step. Each episode shows its step and the sum of its
    rewards so far.

    Args:
        mj_model: the task's model.
        qpos: (T, E, nq), positions in which each step begins.
        reward: (T, E), the reward of that step.
        path: output file, an `.mp4`; replaced atomically.
        last_frame: output file of the last frame, a PNG, once the film is there; none where None.
        mocap_pos: (T, E, nmocap, 3), metres; the model's own where None.
        mocap_quat: (T, E, nmocap, 4), unit quaternions; the model's own where None.
        fps: frames per second, 1 to 100.
        width_per_episode: pixels, even.
        height: pixels, even.
        camera: as in `Renderer`.

    Raises:
        RenderingUnavailable: no OpenGL context can be made here.
        RuntimeError: ffmpeg failed, for example because the disk is full.
        ValueError: shapes that do not fit, positions that are not finite, odd sizes, no such camera.
    """
    if not 1 <= fps <= 100:
        raise ValueError(f"fps {fps} is not allowed: 1 to 100")
    film = _Film(mj_model, qpos, reward, mocap_pos, mocap_quat, width_per_episode, height, camera)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    width = film.qpos.shape[1] * width_per_episode
    with film.renderer() as renderer, replacing(path) as temporary, _encoder(temporary, width, height, fps) as write:
        for picture in film.pictures(renderer, frame_steps(len(film.qpos), fps)):
            write(picture.tobytes())
    if last_frame is not None:
        _write_png(picture, last_frame)


def write_frame(
    mj_model: "mujoco.MjModel",
    qpos: np.ndarray,
    reward: np.ndarray,
    path: Path,
    *,
    step: int = -1,
    mocap_pos: np.ndarray | None = None,
    mocap_quat: np.ndarray | None = None,
    width_per_episode: int = 320,
    height: int = 320,
    camera: int | str | None = None,
) -> None:
    """Write the frame of `step` (an index into T; negative from the end) as a PNG. Otherwise as `write_video`."""
    film = _Film(mj_model, qpos, reward, mocap_pos, mocap_quat, width_per_episode, height, camera)
    step = range(len(film.qpos))[step]
    with film.renderer() as renderer:
        (picture,) = film.pictures(renderer, [step])
    _write_png(picture, path)


def _write_png(picture: np.ndarray, path: Path) -> None:
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=True)


def frame_steps(num_steps: int, fps: int) -> list[int]:
    """The steps that become frames: every `round(100 / fps)`-th, and the last."""
    stride = max(1, round(1000 / (SECONDS_PER_1000_STEPS * fps)))
    steps = list(range(0, num_steps, stride))
    return steps if steps[-1] == num_steps - 1 else [*steps, num_steps - 1]


@contextmanager
def _encoder(path: Path, width: int, height: int, fps: int) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that takes one frame of RGB bytes; the film is at `path` when the block ends.

    Runs the ffmpeg bundled with imageio-ffmpeg. That package's own writer calls a Python function between fork and
    exec, which can deadlock with jax's threads; a plain child process runs no Python code after the fork.
    """
    import imageio_ffmpeg

    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    target = [
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-crf",
        "21",
        "-pix_fmt",
        "yuv420p",
        "-movflags",
        "+faststart",
        f"file:{path}",  # else a colon or a dash in a name means something to it
    ]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *target]
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages) as process,
    ):
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended early: its status and its words follow
                yield process.stdin.write
        except BaseException:
            process.kill()
            raise
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if process.wait() != 0:
            messages.seek(0)
            reason = " ".join(messages.read().decode(errors="replace").split())
            raise RuntimeError(f"ffmpeg could not write {path}: {reason}")


class _Film:
    """Validated arrays of some episodes, and the pictures made from them."""

    def __init__(
        self,
        model: "mujoco.MjModel",
        qpos: np.ndarray,
        reward: np.ndarray,
        mocap_pos: np.ndarray | None,
        mocap_quat: np.ndarray | None,
        width: int,
        height: int,
        camera: int | str | None,
    ) -> None:
        self.model, self.width, self.height, self.camera = model, width, height, camera
        self.qpos = _checked("qpos", qpos, (*np.shape(qpos)[:2], model.nq))
        leading = self.qpos.shape[:2]
        self.return_so_far = np.cumsum(_checked("reward", reward, leading), axis=0)  # (T, E)
        mocap = (*leading, model.nmocap)
        self.mocap_pos = None if mocap_pos is None else _checked("mocap_pos", mocap_pos, (*mocap, 3))
        self.mocap_quat = None if mocap_quat is None else _checked("mocap_quat", mocap_quat, (*mocap, 4))
        for name, size in (("width_per_episode", width), ("height", height)):
            if size < 64 or size % 2:
                raise ValueError(f"{name} {size} is not allowed: an even number from 64 on")

    def renderer(self) -> Renderer:
        return Renderer(self.model, self.height - _caption_height(self.height), self.width, self.camera)

    def pictures(self, renderer: Renderer, steps: list[int]) -> Iterator[np.ndarray]:
        """One (height, E * width, 3) uint8 picture per step."""
        import mujoco

        data = mujoco.MjData(self.model)
        caption = _Caption(self.width, _caption_height(self.height))
        num_steps, num_episodes, _ = self.qpos.shape
        for step in steps:
            tiles = []
            for episode in range(num_episodes):
                data.qpos[:] = self.qpos[step, episode]
                if self.mocap_pos is not None:
                    data.mocap_pos[:] = self.mocap_pos[step, episode]
                if self.mocap_quat is not None:
                    data.mocap_quat[:] = self.mocap_quat[step, episode]
                for stage in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight, mujoco.mj_tendon):
                    stage(self.model, data)
                text = f"return {self.return_so_far[step, episode]:.0f}", f"step {step + 1}/{num_steps}"
                tiles.append(np.concatenate([caption.draw(*text), renderer.render(data)]))
                if episode < num_episodes - 1:
                    tiles[-1][:, -2:] = _CAPTION_COLOUR
            yield np.concatenate(tiles, axis=1)


class _Caption:
    """A strip above an episode, so that text never covers the picture."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.bold = _font("DejaVuSans-Bold.ttf", round(0.52 * height))
        self.regular = _font("DejaVuSans.ttf", round(0.40 * height))

    def draw(self, left: str, right: str) -> np.ndarray:
        """(height, width, 3) uint8: `left` in large and `right` in small type; `right` is omitted if there is no room
        for both."""
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (self.width, self.height), _CAPTION_COLOUR)
        draw = ImageDraw.Draw(image)
        margin, middle = self.height // 3, self.height / 2
        draw.text((margin, middle), left, font=self.bold, fill="white", anchor="lm")
        if self.bold.getlength(left) + self.regular.getlength(right) + 3 * margin <= self.width:
            position = (self.width - margin, middle)
            draw.text(position, right, font=self.regular, fill=(200, 206, 216), anchor="rm")
        return np.array(image)


def _caption_height(height: int) -> int:
    """Pixels of a picture of `height` that the caption takes: a tenth, even, and enough for legible text."""
    return 2 * max(10, round(height / 20))


def _checked(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value, np.float64)
    if array.shape != shape or 0 in shape[:2]:
        wanted = ", ".join(str(size) for size in shape)
        raise ValueError(f"{name} of shape {np.shape(value)} is not allowed: ({wanted}), at least one step and episode")
    if not np.isfinite(array).all():
        step, episode = np.argwhere(~np.isfinite(array))[0][:2]
        raise ValueError(f"{name} is not finite at step {step} of episode {episode}")
    return array


def _font(name: str, size: int) -> "FreeTypeFont":
    """A font bundled with matplotlib, at `size` pixels: the same on every machine."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
