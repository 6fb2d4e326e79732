"""Where scalars go beside the run's own files: TensorBoard events, Weights & Biases, or nowhere."""

import importlib.util
import json
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from dipod_jax.runs._disk import plain

LoggerKind = Literal["tensorboard", "wandb", "none"]


class Logger(Protocol):
    """Receives scalars; `close` when the run ends, however it ends."""

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Record `scalars` (tag -> value) at `step` (env steps, an integer that does not fall)."""
        ...

    def close(self) -> None:
        """Write out what is buffered. Nothing may be logged afterwards."""
        ...


def check_logger(kind: str) -> None:
    """Raise ValueError with one clear line unless a logger of `kind` can be made here. Imports nothing."""
    if kind not in get_args(LoggerKind):
        raise ValueError(f"--logger: value {kind!r}; allowed: {', '.join(get_args(LoggerKind))}")
    if kind == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "--logger: value 'wandb'; wandb is not installed (pip install 'dipod-jax[wandb]'); "
            "allowed without it: tensorboard, none"
        )


def make_logger(kind: LoggerKind, folder: Path, config: dict[str, Any], name: str) -> Logger:
    """Make the logger of `kind`.

    Args:
        kind: `tensorboard` writes event files under `folder/tensorboard`; `wandb` starts a run of the project
            `dipod-jax` with its files under `folder`; `none` drops everything.
        folder: the run's folder.
        config: shown beside the curves.
        name: the run's name in the logger.

    Raises:
        ValueError: unknown kind, or wandb asked for and not installed.
    """
    check_logger(kind)
    if kind == "tensorboard":
        return TensorBoardLogger(Path(folder) / "tensorboard", config, name)
    if kind == "wandb":
        return WandbLogger(Path(folder), config, name)
    return NullLogger()


class NullLogger:
    """Drops everything."""

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Drop `scalars`."""

    def close(self) -> None:
        """Nothing to do."""


class TensorBoardLogger:
    """Event files that `tensorboard --logdir` reads; written without TensorFlow."""

    def __init__(self, folder: Path, config: dict[str, Any], name: str) -> None:
        """Open an event file in `folder`, which is made."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(folder))
        # TensorBoard renders markdown: four spaces make a block of code.
        text = f"{name}\n\n{json.dumps(plain(config), indent=2)}".replace("\n", "\n    ")
        self._writer.add_text("config", text, 0)

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Write one event per tag."""
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, float(value), int(step))

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class WandbLogger:
    """A run of Weights & Biases in the project `dipod-jax`."""

    def __init__(self, folder: Path, config: dict[str, Any], name: str) -> None:
        """Start the run; wandb reads its own settings (key, mode) from its environment variables."""
        import wandb  # pyright: ignore[reportMissingImports]  # an extra: dipod-jax[wandb]

        self._run = wandb.init(project="dipod-jax", name=name, config=plain(config), dir=str(folder))

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Send all tags at once."""
        self._run.log({tag: float(value) for tag, value in scalars.items()}, step=int(step))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
