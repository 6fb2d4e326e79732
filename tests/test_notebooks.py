"""The notebooks run, at a small size, and the executed copies beside them are theirs."""

import os
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = ("two_token_drift", "tiny_diffusion", "drift_in_control", "own_task", "masked_lm_drift")
SMALL = {
    "DIPOD_NOTEBOOK_STEPS": "20",
    "DIPOD_NOTEBOOK_LENGTH": "2",
    "DIPOD_NOTEBOOK_ENV_STEPS": "8192",
    "DIPOD_NOTEBOOK_ITERATIONS": "1",
}
PRINTING = ("print(", "plt.show(", "display(Image", "run_arms(", "train(config")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs_from_top_to_bottom(name):
    notebook = jupytext.read(FOLDER / f"{name}.py")
    environment = os.environ | SMALL | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    NotebookClient(notebook, timeout=900).execute(env=environment)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_the_executed_copy_has_the_source_s_cells_and_an_output_for_each_that_prints(name):
    source = jupytext.read(FOLDER / f"{name}.py")
    executed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert [c.source for c in executed.cells] == [c.source for c in source.cells]
    for cell in executed.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is not None
            assert bool(cell.outputs) == any(word in cell.source for word in PRINTING)
            assert not any(output.output_type == "error" for output in cell.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_opens_in_colab_and_installs_the_package_in_its_first_code_cell(name):
    notebook = jupytext.read(FOLDER / f"{name}.py")
    link = f"https://colab.research.google.com/github/dipod-jax/dipod-jax/blob/main/notebooks/{name}.ipynb"
    assert link in notebook.cells[0].source
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "pip" in first.source and "dipod-jax" in first.source
