"""What the other processes of a run have in place of its folder: they read nothing and write nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dipod_jax.runs.folder import CHECKPOINTS


class SilentFolder:
    """A `RunFolder` of which nothing is read and to which nothing is written."""

    taken_over_from = None
    say: Callable[[str], None] = staticmethod(lambda line: None)

    def __init__(self, path: Path) -> None:
        """Name the folder that the first process has."""
        self.path, self.checkpoints = path, path / CHECKPOINTS

    def check(self) -> None:
        """Nothing can be wrong."""

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Drop the record."""

    def metrics_are_written(self) -> bool:
        """Nothing waits."""
        return True

    def write_result(self, result: dict[str, Any]) -> None:
        """Drop it."""

    def close(self) -> None:
        """Nothing is open."""
