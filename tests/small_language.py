"""A small language run."""

from dipod_jax.language import Sudoku
from dipod_jax.language.config import MeasureOptions, NetworkOptions, make_config
from dipod_jax.language.pretrain import PretrainOptions
from dipod_jax.options import override


def small_config(objective="fpo", **values):
    """Sudoku with 3 blanks, a narrow network, 2 prompts of 4 samples."""
    defaults = {
        "problems": Sudoku(blanks=3, puzzles_per_grid=2),
        "pretraining": PretrainOptions(steps=3, batch_size=8),
        "network": NetworkOptions(width=16, num_layers=1),
        "measure": MeasureOptions(drift_interval=2, drift_prompts=2, evaluation_interval=2, num_problems=8),
    }
    config = make_config("sudoku", objective, **defaults | values)
    sizes = {"learning.num_iterations": 3, "learning.num_prompts": 2, "learning.samples_per_prompt": 4}
    return override(config, {**sizes, "learning.inner_updates": 2})
