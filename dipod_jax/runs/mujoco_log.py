"""MuJoCo's warnings, as of a simulation that has diverged: in the run's folder, and no more than a megabyte of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

LOG = "MUJOCO_LOG.TXT"
MAX_BYTES = 2**20


class MujocoLog:
    """Where MuJoCo writes its warnings while a run goes on; else it writes them where the command was started."""

    def __init__(self, folder: Path | None, say: Callable[[str], None]) -> None:
        """Send them to `folder / MUJOCO_LOG.TXT`, or nowhere; that there are any is said once, and nothing printed
        besides."""
        import mujoco

        self._path, self._say = (folder or Path()).absolute() / LOG, say
        self._before = mujoco.MjLogConfig.get()
        self._size_before = self._size()
        self._said = self._full = False
        fits = folder is not None and len(str(self._path).encode()) < 1024  # what MuJoCo keeps of a name
        _configure(logfile=str(self._path) if fits else LOG, logto_file=fits, logto_console=False)

    def check(self) -> None:
        """Say that MuJoCo has warned; stop it from writing more than a megabyte."""
        size = self._size()
        if size > self._size_before and not self._said:
            self._said = True
            self._say(f"warning: MuJoCo warns of a simulation; see {self._path}")
        if size > MAX_BYTES and not self._full:
            self._full = True
            _configure(logto_file=False)

    def close(self) -> None:
        """Let MuJoCo write as before."""
        self._before.set()

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0


def _configure(**settings: Any) -> None:
    import mujoco

    config = mujoco.MjLogConfig.get()
    for name, value in settings.items():
        setattr(config, name, value)
    config.set()
