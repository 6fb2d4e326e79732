"""What a run leaves on the disk: its folder, checkpoints, logger events, and the progress line."""

from dipod_jax.runs.checkpoints import check_checkpoint, restore_checkpoint, save_checkpoint, saved_shapes
from dipod_jax.runs.errors import CheckpointError, NumbersError, RunFolderError, StorageError, reason_of
from dipod_jax.runs.folder import RunFolder
from dipod_jax.runs.integrity import verify_checkpoint
from dipod_jax.runs.loggers import Logger, check_logger, make_logger
from dipod_jax.runs.metrics import find_holes
from dipod_jax.runs.places import check_resumable, check_unused, check_writable
from dipod_jax.runs.progress import Progress
from dipod_jax.runs.saver import Saver
from dipod_jax.runs.shelf import BEST, checkpoint_step, find_checkpoint, latest_checkpoint, set_newer_aside

__all__ = [
    "BEST",
    "CheckpointError",
    "Logger",
    "NumbersError",
    "Progress",
    "RunFolder",
    "RunFolderError",
    "Saver",
    "StorageError",
    "check_checkpoint",
    "check_logger",
    "check_resumable",
    "check_unused",
    "check_writable",
    "checkpoint_step",
    "find_checkpoint",
    "find_holes",
    "latest_checkpoint",
    "make_logger",
    "reason_of",
    "restore_checkpoint",
    "save_checkpoint",
    "saved_shapes",
    "set_newer_aside",
    "verify_checkpoint",
]
