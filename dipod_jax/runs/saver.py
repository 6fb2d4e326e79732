"""When the disk refuses a checkpoint: training goes on, and the next interval tries again."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dipod_jax.runs.checkpoints import save_checkpoint
from dipod_jax.runs.errors import CheckpointError, StorageError, reason_of

# A disk that has taken nothing for so long is not waited for any longer.
PATIENCE_S = 600.0


class Saver:
    """Saves the checkpoints of a run, and says in one line when they begin to fail and when they work again."""

    def __init__(self, folder: Path, *, keep: int, say: Callable[[str], None]) -> None:
        """Save into `folder`, the newest `keep` of them, each line of text to `say`. The first interval begins now."""
        self._folder, self._keep, self._say = folder, keep, say
        self._failing_since: float | None = None
        self._since = time.perf_counter()

    def save(self, step: int, state: Any, *, required: bool = False) -> bool:
        """Write a checkpoint; return whether it is written.

        Args:
            step: iterations done.
            state: pytree of arrays.
            required: nothing comes after it that could try again.

        Raises:
            StorageError: refused, and `required`; or refused again and again for 10 minutes.
        """
        now = self._since = time.perf_counter()
        try:
            save_checkpoint(self._folder, step, state, keep=self._keep)
        except (OSError, CheckpointError) as error:
            begins, self._failing_since = self._failing_since is None, self._failing_since or now
            refusal = f"no checkpoint of iteration {step} can be written into {self._folder} ({reason_of(error)})"
            if required or now - self._failing_since > PATIENCE_S:
                way_out = "make room and continue from the last one with --resume"
                raise StorageError(f"{refusal}; {way_out}") from error
            if begins:
                self._say(f"warning: {refusal}; it is tried again at each interval")
            return False
        if self._failing_since is not None:
            self._say(f"checkpoints can be written again: iteration {step} is saved")
        self._failing_since = None
        return True

    def is_due(self, interval_s: float) -> bool:
        """Whether the last attempt, or where there was none the run's begin, is `interval_s` seconds ago."""
        return time.perf_counter() - self._since >= interval_s
