"""Plots show the numbers they are given: lines, limits, legends, and pixels on the disk."""

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dipod_jax.viz import plot_comparison, plot_drift, plot_returns
from dipod_jax.viz._series import Curve, curves_by_seed, mean_curve
from dipod_jax.viz._style import COLOURS, time_unit, with_count
from dipod_jax.viz.drift import has_drift
from dipod_jax.viz.figure2 import Band, plot_figure2


def evaluations(num_seeds: int = 2, points: int = 6) -> list[dict[str, Any]]:
    """Seed s returns 100 (s + 1) at every second point more, after 100,000 env steps and 20 s a point."""
    return [
        {
            "seed": seed,
            "env_steps": 100_000 * point,
            "wall_clock_s": 10.0 + 20.0 * point,
            "return_mean": 100.0 * point * (1 + seed / 2),
            "return_ci95": 25.0,
            "zero_noise_return_mean": 50.0 * point,
        }
        for seed in range(num_seeds)
        for point in range(points)
    ]


@pytest.fixture
def figures(monkeypatch) -> list[Any]:
    """Every figure that is saved, to look at its lines; it is saved all the same."""
    from matplotlib.figure import Figure

    seen = []
    save = Figure.savefig

    def savefig(self, *args, **kwargs):
        seen.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return seen


def lines_of(axes, width: float) -> list[Any]:
    return [line for line in axes.get_lines() if line.get_linewidth() == width]


def legend_texts(figure) -> list[str]:
    owners = [figure, *figure.subfigs]
    return [text.get_text() for owner in owners for legend in owner.legends for text in legend.get_texts()]


def share_of_colour(path, colour: str) -> float:
    pixels = np.asarray(Image.open(path).convert("RGB"), int)
    target = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.abs(pixels - target).sum(axis=-1) < 12).mean())


def test_curves_are_split_by_seed_sorted_and_freed_of_what_is_no_number():
    records = [
        {"seed": 1, "x": 2, "y": 20.0},
        {"seed": 1, "x": 1, "y": 10.0},
        {"seed": 0, "x": 1, "y": None},
        {"seed": 0, "x": 2, "y": math.nan},
        {"seed": 0, "x": 3, "y": 5},
        {"seed": 0, "y": 5},
        {"x": 4, "y": True},
    ]
    curves = curves_by_seed(records, "x", "y")
    assert list(curves) == [0, 1]
    assert (curves[0].x.tolist(), curves[0].y.tolist()) == ([3.0], [5.0])
    assert (curves[1].x.tolist(), curves[1].y.tolist()) == ([1.0, 2.0], [10.0, 20.0])


def test_of_two_points_at_one_place_the_later_record_stays():
    curves = curves_by_seed([{"x": 1, "y": 1.0}, {"x": 1, "y": 2.0}], "x", "y")
    assert curves[0].y.tolist() == [2.0]


def test_the_mean_interpolates_each_seed_and_covers_only_what_all_have():
    first = Curve(np.array([0.0, 2.0, 4.0]), np.array([0.0, 2.0, 4.0]))
    second = Curve(np.array([1.0, 3.0]), np.array([10.0, 30.0]))
    mean = mean_curve([first, second])
    assert mean.x.tolist() == [1.0, 2.0, 3.0]
    assert mean.y.tolist() == [(1 + 10) / 2, (2 + 20) / 2, (3 + 30) / 2]


def test_the_mean_of_curves_that_do_not_overlap_is_empty():
    late = Curve(np.array([5.0]), np.array([1.0]))
    early = Curve(np.array([1.0]), np.array([1.0]))
    assert mean_curve([late, early]).x.size == 0 and mean_curve([]).x.size == 0


def test_a_name_that_matplotlib_would_hide_stands_in_the_legend():
    assert [with_count(name, 1) for name in ("_base", "", "$x$")] == [" _base", " ", "$x$"]


def test_time_has_a_unit_people_read():
    assert [time_unit(value)[1] for value in (90, 1200, 1201, 10_800, 20_000)] == ["s", "s", "min", "min", "h"]


def test_returns_are_drawn_over_steps_and_time_with_the_mean_thick(tmp_path, figures):
    plot_returns(evaluations(), tmp_path / "returns.png", title="BallInCup")
    by_steps, by_time = figures[0].axes
    (mean,) = lines_of(by_steps, 2.4)
    assert mean.get_xdata().tolist() == [0, 1e5, 2e5, 3e5, 4e5, 5e5]
    assert mean.get_ydata().tolist() == [0, 125, 250, 375, 500, 625]
    assert sorted(line.get_ydata()[-1] for line in lines_of(by_steps, 0.9)) == [500, 750]
    (mean_over_time,) = lines_of(by_time, 2.4)
    assert mean_over_time.get_xdata().tolist() == [10, 30, 50, 70, 90, 110]
    assert (by_steps.get_xlabel(), by_time.get_xlabel()) == ("env steps", "wall-clock time (s)")
    assert legend_texts(figures[0]) == ["random base noise, mean of 2 seeds", "zero base noise", "each seed"]


def test_axes_start_at_zero_and_end_near_the_highest_possible_return(tmp_path, figures):
    plot_returns(evaluations(), tmp_path / "returns.png", title="BallInCup")
    for axes in figures[0].axes:
        assert axes.get_xlim()[0] == 0
        assert axes.get_ylim()[0] == 0 and 1000 <= axes.get_ylim()[1] <= 1050
    figures[0].canvas.draw()
    ticks = [label.get_text() for label in figures[0].axes[0].get_xticklabels()]
    assert "100k" in ticks and "500k" in ticks


def test_returns_outside_the_usual_range_are_not_cut_off(tmp_path, figures):
    records = [{**record, "return_mean": 3 * record["return_mean"] - 100} for record in evaluations()]
    plot_returns(records, tmp_path / "returns.png", title="x")
    low, high = figures[0].axes[0].get_ylim()
    assert low <= -100 and high >= 2150


def test_one_seed_shows_its_interval_and_the_note_stands_beneath(tmp_path, figures):
    plot_returns(evaluations(1), tmp_path / "returns.png", title="x", note="resets to one state")
    assert legend_texts(figures[0]) == ["random base noise", "zero base noise", "95 % interval over episodes"]
    (band,) = figures[0].axes[0].collections
    assert band.get_paths()[0].get_extents().y1 == 525.0
    notes = [text.get_text() for part in figures[0].subfigs for text in part.texts]
    assert "resets to one state" in notes


def test_the_picture_on_the_disk_shows_the_curves(tmp_path):
    plot_returns(evaluations(), tmp_path / "full.png", title="x")
    plot_returns([], tmp_path / "empty.png", title="x")
    assert Image.open(tmp_path / "full.png").size == (1500, 660)
    assert share_of_colour(tmp_path / "full.png", COLOURS[0]) > 0.002
    assert share_of_colour(tmp_path / "full.png", COLOURS[1]) > 0.0005
    assert share_of_colour(tmp_path / "empty.png", COLOURS[0]) == 0.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.png", "full.png"]


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_vector_formats_are_written_too(tmp_path, suffix):
    plot_returns(evaluations(), tmp_path / f"returns.{suffix}", title="x_$y")
    assert (tmp_path / f"returns.{suffix}").stat().st_size > 5000


def test_a_comparison_gives_each_run_a_colour_and_counts_its_seeds(tmp_path, figures):
    runs = {"beta 0": evaluations(3), "beta 0.002": evaluations(1)}
    plot_comparison(runs, tmp_path / "compared.png", title="BallInCup")
    (axes,) = figures[0].axes
    first, second = lines_of(axes, 2.4)
    assert (first.get_color(), second.get_color()) == COLOURS[:2]
    assert first.get_ydata()[-1] == 750 and second.get_ydata()[-1] == 500
    assert len(lines_of(axes, 0.9)) == 3
    assert legend_texts(figures[0]) == ["beta 0 (3 seeds)", "beta 0.002"]
    assert axes.get_xlabel() == "wall-clock time (s)"
    plot_comparison(runs, tmp_path / "compared.png", x="env_steps", title="BallInCup")
    assert figures[1].axes[0].get_xlabel() == "env steps"
    with pytest.raises(ValueError, match="x 'steps' is not allowed: one of wall_clock_s, env_steps"):
        plot_comparison(runs, tmp_path / "compared.png", x="steps", title="BallInCup")


def drift_records() -> list[dict[str, Any]]:
    return [
        {
            "seed": seed,
            "env_steps": 50_000 * point,
            "wall_clock_s": 10.0 + 10.0 * point,
            "cfm_loss": 0.5 * 2.0**point,
            "action_magnitude": 1.0 + point,
            "drift/gap": 2.0 * 2.0**point,
            "drift/gap_median": 2.0,
            "drift/gradient_cosine": 0.9 - 0.1 * point,
            "drift/gradient_cosine_ceiling": 0.95,
        }
        for seed in (0, 1)
        for point in range(10)
    ]


def test_drift_has_a_panel_for_each_quantity_and_one_time_axis(tmp_path, figures):
    plot_drift(drift_records(), evaluations(), tmp_path / "drift.png")
    *panels, top = figures[0].axes
    assert [axes.get_ylabel().split("\n")[0].split(" (")[0] for axes in panels] == [
        *("return", "gap", "cosine of the", "CFM loss on", "action magnitude")
    ]
    assert [axes.get_yscale() for axes in panels] == ["linear", "log", "linear", "log", "log"]
    assert panels[-1].get_xlabel() == "env steps" and top.get_xlabel() == "wall-clock time (s)"
    thick = [lines_of(axes, 2.4) for axes in panels]
    assert [len(lines) for lines in thick] == [2, 2, 2, 1, 1]
    assert thick[1][0].get_ydata()[-1] == 1024.0 and thick[3][0].get_ydata()[-1] == 256.0
    assert [len(lines_of(axes, 0.9)) for axes in panels] == [4, 4, 5, 2, 2]  # 5: the cosine's zero line
    assert share_of_colour(tmp_path / "drift.png", COLOURS[1]) > 0.0005


def test_wall_clock_ticks_stand_where_the_run_was_at_that_time(tmp_path, figures):
    plot_drift(drift_records(), [], tmp_path / "drift.png")
    top = figures[0].axes[-1]
    labels = [float(label.get_text()) for label in top.get_xticklabels()]
    assert labels and top.get_xticks().tolist() == [(seconds - 10.0) * 5000.0 for seconds in labels]


def test_panels_without_data_are_left_out(tmp_path, figures):
    losses = [{key: record[key] for key in ("seed", "env_steps", "cfm_loss")} for record in drift_records()]
    plot_drift(losses, [], tmp_path / "drift.png")
    (panel,) = figures[0].axes
    assert panel.get_ylabel() == "CFM loss on\nown actions"
    assert has_drift(losses) and not has_drift(evaluations())
    with pytest.raises(ValueError, match="no record holds any of the quantities"):
        plot_drift([{"env_steps": 1}], [], tmp_path / "none.png")


def test_a_negative_gap_is_drawn_too(tmp_path, figures):
    records = drift_records()
    records[3]["drift/gap"] = -0.5
    plot_drift(records, [], tmp_path / "drift.png")
    assert figures[0].axes[0].get_yscale() == "symlog"
    assert len(lines_of(figures[0].axes[0], 2.4)) == 2


@pytest.mark.parametrize(("tasks", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (13, 4), (25, 5)])
def test_the_panels_of_many_tasks_stand_in_a_picture_that_is_no_taller_than_wide(tmp_path, figures, tasks, columns):
    steps, returns = np.array([0.0, 1e6, 2e6]), np.array([0.0, 100.0, 200.0])
    band = Band(steps, returns, 0.9 * returns, 1.1 * returns)
    plot_figure2({f"task {i}": {"fpo": band} for i in range(tasks)}, tmp_path / "f.png", labels=["fpo"], title="tasks")
    shown = [axes for axes in figures[0].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == [f"task {i}" for i in range(tasks)]
    assert shown[-1].get_gridspec().ncols == columns
    width, height = Image.open(tmp_path / "f.png").size
    assert height <= width
