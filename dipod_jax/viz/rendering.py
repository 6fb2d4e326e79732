"""MuJoCo pictures without a window, on whatever OpenGL the machine has."""

# mujoco takes its names from extension modules without stubs.
# pyright: reportAttributeAccessIssue=false

import copy
import importlib
import os
import platform
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import mujoco

_BACKENDS = {"egl": "mujoco.egl", "osmesa": "mujoco.osmesa", "glfw": "mujoco.glfw", "cgl": "mujoco.cgl"}
# Pixels of the shadow map. 2048 to 8192 in models; at the size of a film 1024 looks the same and, where the CPU draws,
# takes half the time.
SHADOW_SIZE = 1024
# Of round shapes: around and along. 28 and 16 by default, which costs twice the time where a slack tendon is drawn.
NUM_SLICES, NUM_STACKS = 16, 8
# Degrees. The suite's cameras have 45, which cuts off what moves far: BallInCup's cup, once it holds the ball up.
MIN_FIELD_OF_VIEW = 56.0
_OFF = ("disable", "disabled", "off", "false", "0")
_NO_CHOICE = ("", "enable", "enabled", "on", "true", "1")


class RenderingUnavailable(RuntimeError):
    """No OpenGL context can be made here. The message is one line that says what was tried."""


class Renderer:
    """Renders one model into arrays of shape (height, width, 3), uint8.

    `mujoco.Renderer` chooses its backend when mujoco is first imported, from an environment variable that is usually
    unset; on a machine without a display it then fails. This class creates its context on demand: with the backend
    named by MUJOCO_GL, else EGL on Linux, CGL on macOS, and a window system elsewhere or as a last resort.

    Use and close it in the thread that created it; it is a context manager.
    """

    def __init__(self, model: "mujoco.MjModel", height: int, width: int, camera: int | str | None = None) -> None:
        """Make the context.

        Args:
            model: what to render.
            height: in pixels.
            width: in pixels.
            camera: name or index of one of the model's cameras; None takes the first one, or a free camera that sees
                the whole model if there is none.

        Raises:
            RenderingUnavailable: no OpenGL context can be made.
            ValueError: no such camera.
        """
        import mujoco

        self._mujoco = mujoco
        self._model = copy.copy(model)  # the caller's keeps its own settings
        self._model.vis.quality.shadowsize = SHADOW_SIZE
        self._model.vis.quality.numslices, self._model.vis.quality.numstacks = NUM_SLICES, NUM_STACKS
        self._model.cam_fovy[:] = np.maximum(self._model.cam_fovy, MIN_FIELD_OF_VIEW)
        self._camera = _camera(model, camera)
        self._gl = _gl_context(width, height)
        self._gl.make_current()
        try:
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except mujoco.FatalError as error:  # an OpenGL too old for MuJoCo
            self._gl.free()
            raise RenderingUnavailable(f"MuJoCo cannot draw with the OpenGL found here ({error})") from error
        mujoco.mjr_resizeOffscreen(width, height, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(self._model, maxgeom=2000)
        self._options = mujoco.MjvOption()
        self._viewport = mujoco.MjrRect(0, 0, width, height)

    def render(self, data: "mujoco.MjData") -> np.ndarray:
        """Picture of `data` (after `mj_forward`): (height, width, 3), uint8, first row on top."""
        mujoco = self._mujoco
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        picture = np.empty((self._viewport.height, self._viewport.width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, self._viewport, self._context)
        return picture[::-1]  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def __enter__(self) -> "Renderer":
        """Self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close, whatever happened."""
        self.close()


def _gl_context(width: int, height: int) -> Any:
    """An OpenGL context from the first backend that can make one."""
    tried = []
    for name in _backends_to_try():
        try:
            return importlib.import_module(_BACKENDS[name]).GLContext(width, height)
        except Exception as error:  # a missing library is an ImportError, AttributeError, OSError, GLError ...
            tried.append(f"{name}: {' '.join(str(error).split())[:120] or type(error).__name__}")
    raise RenderingUnavailable(f"no OpenGL context ({'; '.join(tried)}); install EGL (Mesa's libegl1) for a video")


def _backends_to_try() -> list[str]:
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in _OFF:
        raise RenderingUnavailable(f"rendering is switched off by MUJOCO_GL={wanted}; unset it for a video")
    if wanted in _BACKENDS:
        return [wanted]
    if wanted not in _NO_CHOICE:
        raise RenderingUnavailable(f"MUJOCO_GL={wanted} is not allowed: one of {', '.join(_BACKENDS)}")
    if platform.system() == "Darwin":
        return ["cgl", "glfw"]
    if platform.system() != "Linux":
        return ["glfw"]
    # glfw without a display only prints warnings. osmesa cannot be tried after EGL: PyOpenGL binds one, once.
    return ["egl", "glfw"] if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") else ["egl"]


def _camera(model: "mujoco.MjModel", camera: int | str | None) -> "mujoco.MjvCamera":
    import mujoco

    view = mujoco.MjvCamera()
    if camera is None and model.ncam == 0:
        mujoco.mjv_defaultFreeCamera(model, view)
        return view
    names = [model.camera(index).name for index in range(model.ncam)]
    index = 0 if camera is None else names.index(camera) if camera in names else camera
    if not isinstance(index, int) or not 0 <= index < model.ncam:
        what = f"one of {', '.join(names)}" if names else "None, as the model has no camera"
        raise ValueError(f"camera {camera!r} is not allowed: {what}")
    view.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
    view.fixedcamid = index
    return view
