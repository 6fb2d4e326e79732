"""A sweep over language runs: the plan, the workers and the page are those of any other sweep."""

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import small_language

from dipod_jax.language import loop
from dipod_jax.language.config import make_config
from dipod_jax.language.pretrain import pretrained
from dipod_jax.launch.worker import work
from dipod_jax.options import override
from dipod_jax.presets import make_config as make_control_config
from dipod_jax.runs import RunFolder
from dipod_jax.studies.sweep.plan import extend_plan, make_unit, read_plan, unit_id
from dipod_jax.studies.sweep.reporting import draw
from dipod_jax.studies.sweep.rooms import program_key
from dipod_jax.studies.sweep.states import failures, position
from dipod_jax.studies.sweep.trainer import Trainer


def small_config(objective="fpo", **changes):
    return override(
        small_language.small_config(objective),
        {"learning.num_iterations": 2, "learning.inner_updates": 1, "seeds": 2, **changes},
    )


def test_an_id_is_the_seeds_and_what_is_learned_and_nothing_else(tmp_path):
    config = small_config()
    same = {"out": tmp_path, "cache": tmp_path, "checkpoint_interval": 1.0}
    assert unit_id(override(config, same)) == unit_id(config)
    others = {"seeds": 3, "first_seed": 1, "beta": 0.5, "learning.num_iterations": 3, "problems.blanks": 4}
    found = [override(config, {name: value}) for name, value in others.items()]
    found += [small_config("fpo-released"), make_config("countdown")]
    assert len({unit_id(c) for c in [config, *found]}) == 1 + len(found)


def test_a_model_of_the_same_name_in_another_folder_is_another_unit(tmp_path, monkeypatch):
    def identity(path):
        return make_unit(tmp_path / "s", small_config(pretrained=path)).id

    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        found.append(identity(Path("model")))
        assert identity(folder / "model") == found[-1]
    assert found[0] != found[1]


def test_a_plan_is_read_as_it_was_written_and_holds_runs_of_one_kind(tmp_path):
    unit = make_unit(tmp_path, small_config("fpo-released", beta=0.05))
    assert unit.name.startswith("sudoku-fpo-released-beta0.05-")
    assert extend_plan(tmp_path, [unit]) == [unit] == read_plan(tmp_path)
    control, _ = make_control_config("smoke", "BallInCup", "fpo", "native")
    with pytest.raises(ValueError, match=r"--task BallInCup is not allowed: those of dipod language, as sudoku"):
        extend_plan(tmp_path, [make_unit(tmp_path, control)])


def test_a_worker_reads_every_option_of_its_session_and_finds_files_from_wherever_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = small_config(checkpoint_interval=5.0, cache=Path("models"), test_file=Path("boards.csv"))
    extend_plan(tmp_path / "s", [make_unit(tmp_path / "s", config)])
    monkeypatch.chdir("/")
    (read,) = (unit.config for unit in read_plan(tmp_path / "s"))
    assert (read.checkpoint_interval, read.cache, read.test_file) == (
        5.0,
        tmp_path / "models",
        tmp_path / "boards.csv",
    )


def test_runs_that_differ_in_numbers_alone_share_a_program():
    key = program_key(small_config())
    numbers = {"beta": 0.1, "objective.clip_epsilon": 0.5, "learning.learning_rate": 1.0, "first_seed": 3}
    numbers |= {"beta_control.gap_target": 1.0, "checkpoint_interval": 1.0, "learning.num_iterations": 9}
    assert {program_key(small_config(**{name: value})) for name, value in numbers.items()} == {key}
    shapes = {"seeds": 3, "network.width": 32, "learning.inner_updates": 2, "measure.drift_interval": 0}
    assert key not in {program_key(small_config(**{name: value})) for name, value in shapes.items()}


def test_a_checkpoint_to_start_from_is_checked_without_a_device(tmp_path):
    """The planner lives beside its workers: what it holds of an accelerator they lack."""
    config = small_config(cache=tmp_path)
    pretrained(config.problems, config.build_network(), config.pretraining, tmp_path)
    (folder,) = tmp_path.glob("sudoku-*")
    code = f"""
from pathlib import Path
import jax
from dipod_jax.language.pretrain import check_params
from dipod_jax.language.model import MaskedTransformer
for width in (16, 32):
    try:
        check_params(Path({str(folder)!r}), MaskedTransformer({config.problems.length}, {config.problems.vocab_size},
                     width=width, num_layers=1, num_heads=2, head="zeros"))
        print("right")
    except Exception as error:
        print(type(error).__name__)
print(jax._src.xla_bridge.backends_are_initialized())
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["right", "CheckpointError", "False"]


@pytest.mark.slow
def test_units_are_trained_by_one_program_continued_where_they_failed_and_drawn(tmp_path, monkeypatch):
    base = small_config(cache=tmp_path / "cache", checkpoint_interval=0.0)
    make = lambda out: [make_unit(out, dataclasses.replace(base, beta=beta)) for beta in (0.0, 0.05)]
    units, trainer, begun = make(tmp_path / "s"), Trainer(), []
    extend_plan(tmp_path / "s", units)
    iterate = loop.Run.iterate

    def fail_once(run):
        begun.append(run.iteration)
        if begun == [0, 1]:
            raise RuntimeError("no luck")
        iterate(run)

    monkeypatch.setattr(loop.Run, "iterate", fail_once)
    assert work(units, "a", trainer) and trainer.key == program_key(base)
    assert begun == [0, 1, 1, 0, 1] and len(failures(units[0])) == 1  # one went on, the other had no trouble
    assert position(units[0]).env_steps == units[0].config.planned_steps == 16
    whole = make(tmp_path / "whole")[:1]
    extend_plan(tmp_path / "whole", whole)
    assert work(whole, "a", Trainer())
    final = [RunFolder.open(unit.folder).read_result()["final"] for unit in (units[0], *whole)]
    assert final[0] == final[1]
    draw(tmp_path / "s", print)
    rows = list(csv.DictReader((tmp_path / "s" / "results.csv").open()))
    assert sorted((row["task"], row["beta"], row["seed"]) for row in rows) == [
        ("sudoku", beta, seed) for beta in ("0", "0.05") for seed in "01"
    ]
    greedy = [float(row["zero_noise_return"]) for row in rows if row["beta"] == "0"]
    assert greedy == pytest.approx(final[0]["greedy"]["per_seed"])
    assert "a return its reward" in (tmp_path / "s" / "results.md").read_text()
