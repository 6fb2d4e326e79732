"""What a run leaves on the disk: its folder, checkpoints, logger events, and the progress line."""

from dipod_jax.runs.checkpoints import (
    checkpoint_step,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
    saved_shapes,
    verify_checkpoint,
)
from dipod_jax.runs.errors import CheckpointError, RunFolderError
from dipod_jax.runs.folder import RunFolder, check_unused, check_writable
from dipod_jax.runs.loggers import Logger, check_logger, make_logger
from dipod_jax.runs.progress import Progress

__all__ = [
    "CheckpointError",
    "Logger",
    "Progress",
    "RunFolder",
    "RunFolderError",
    "check_logger",
    "check_unused",
    "check_writable",
    "checkpoint_step",
    "latest_checkpoint",
    "make_logger",
    "restore_checkpoint",
    "save_checkpoint",
    "saved_shapes",
    "verify_checkpoint",
]
