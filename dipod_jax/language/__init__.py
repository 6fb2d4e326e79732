"""Small verifiable tasks for masked diffusion over tokens: a model, pretraining, decoding, post-training."""

from dipod_jax.language.countdown import Countdown
from dipod_jax.language.sudoku import Sudoku
from dipod_jax.language.task import MASK, Problems, Task

TASKS = {"sudoku": Sudoku, "countdown": Countdown}

__all__ = ["MASK", "TASKS", "Countdown", "Problems", "Sudoku", "Task"]
