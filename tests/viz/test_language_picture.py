"""The picture of a language run: which panels it has."""

import pytest
from PIL import Image

from dipod_jax.viz.language import plot_language


def records(*names, seeds=2):
    return [{"seed": s, "iteration": i, **dict.fromkeys(names, 0.1 * i)} for s in range(seeds) for i in (0, 10, 20)]


@pytest.mark.parametrize(("names", "panels"), [(("greedy", "sampled"), 1), (("greedy", "drift/gap"), 2)])
def test_there_is_a_panel_for_whatever_was_recorded(tmp_path, names, panels):
    assert plot_language(records(*names), tmp_path / "a.png", title="run")
    assert Image.open(tmp_path / "a.png").size == (round(150 * 3.6 * panels), round(150 * 3.4))


def test_a_run_that_recorded_nothing_has_no_picture(tmp_path):
    assert not plot_language([{"seed": 0, "iteration": 1, "reward": 1.0}], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
