"""What can be exported, and what can be wrong with it. Imports nothing slow."""

from collections.abc import Sequence
from importlib.util import find_spec

from dipod_jax.checks import check_selection, require
from dipod_jax.runs.errors import RunFolderError

FORMATS = ("stablehlo", "onnx")


class ExportError(RunFolderError):
    """The run's policy cannot be exported as asked; one line."""


def check_formats(formats: Sequence[str]) -> None:
    """Raise ValueError for an unknown format, or one whose packages are not installed."""
    check_selection("formats", formats, FORMATS)
    there = "onnx" not in formats or (find_spec("onnx") and find_spec("onnxruntime"))
    require(bool(there), "formats", " ".join(formats), 'without pip install "dipod-jax[export]"; or take stablehlo')
