"""A sweep over language runs: the plan, the workers and the page are those of any other sweep."""

import csv
import dataclasses

import pytest

from dipod_jax.language import Sudoku
from dipod_jax.language.config import MeasureOptions, NetworkOptions, make_config
from dipod_jax.language.pretrain import PretrainOptions
from dipod_jax.launch.worker import work
from dipod_jax.options import override
from dipod_jax.presets import make_config as make_control_config
from dipod_jax.runs import RunFolder
from dipod_jax.studies.sweep.plan import extend_plan, make_unit, read_plan, unit_id
from dipod_jax.studies.sweep.reporting import draw
from dipod_jax.studies.sweep.rooms import program_key
from dipod_jax.studies.sweep.states import is_done, position
from dipod_jax.studies.sweep.trainer import Trainer, to_continue


def small_config(objective="fpo", **changes):
    config = make_config(
        "sudoku",
        objective,
        problems=Sudoku(blanks=3, puzzles_per_grid=2),
        pretraining=PretrainOptions(steps=3, batch_size=8),
        network=NetworkOptions(width=16, num_layers=1),
        measure=MeasureOptions(drift_interval=2, drift_prompts=1, evaluation_interval=2, num_problems=8),
    )
    sizes = {"learning.num_iterations": 2, "learning.num_prompts": 2, "learning.samples_per_prompt": 4}
    return override(config, {**sizes, "learning.inner_updates": 1, "seeds": 2, **changes})


def test_an_id_is_the_seeds_and_what_is_learned_and_nothing_else(tmp_path):
    config = small_config()
    same = {"out": tmp_path, "cache": tmp_path, "checkpoint_interval": 1.0}
    assert unit_id(override(config, same)) == unit_id(config)
    others = {"seeds": 3, "first_seed": 1, "beta": 0.5, "learning.num_iterations": 3, "problems.blanks": 4}
    found = [override(config, {name: value}) for name, value in others.items()]
    found += [small_config("fpo-released"), make_config("countdown")]
    assert len({unit_id(c) for c in [config, *found]}) == 1 + len(found)


def test_a_plan_is_read_as_it_was_written_and_holds_runs_of_one_kind(tmp_path):
    unit = make_unit(tmp_path, small_config("fpo-released", beta=0.05))
    assert unit.name.startswith("sudoku-fpo-released-beta0.05-")
    assert extend_plan(tmp_path, [unit]) == [unit] == read_plan(tmp_path)
    control, _ = make_control_config("smoke", "BallInCup", "fpo", "native")
    with pytest.raises(ValueError, match=r"--tasks BallInCup is not allowed: those of dipod language, as sudoku"):
        extend_plan(tmp_path, [make_unit(tmp_path, control)])


@pytest.mark.slow
def test_units_are_trained_by_one_program_continued_and_drawn(tmp_path):
    base = small_config(cache=tmp_path / "cache")
    units = [make_unit(tmp_path / "s", dataclasses.replace(base, beta=beta)) for beta in (0.0, 0.05)]
    extend_plan(tmp_path / "s", units)
    trainer = Trainer()
    assert work(units, "a", trainer) and trainer.key == program_key(base)
    assert [is_done(unit) for unit in units] == [True, True]
    assert position(units[0]).env_steps == units[0].config.planned_steps == 16
    final = [RunFolder.open(unit.folder).read_result()["final"] for unit in units]
    (units[0].folder / "result.json").unlink()
    assert not is_done(units[0]) and to_continue(units[0]).resume
    assert work(units, "b", Trainer()) and RunFolder.open(units[0].folder).read_result()["final"] == final[0]
    draw(tmp_path / "s", print)
    rows = list(csv.DictReader((tmp_path / "s" / "results.csv").open()))
    assert sorted((row["task"], row["beta"], row["seed"]) for row in rows) == [
        ("sudoku", beta, seed) for beta in ("0", "0.05") for seed in "01"
    ]
    greedy = [float(row["zero_noise_return"]) for row in rows if row["beta"] == "0"]
    assert greedy == pytest.approx(final[0]["greedy"]["per_seed"])
