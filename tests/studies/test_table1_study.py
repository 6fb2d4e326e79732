"""The language study: which arms there are, what is run again, what its tables and its figure say."""

import csv
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dipod_jax.commands import table1
from dipod_jax.language import TASKS
from dipod_jax.language.config import to_json
from dipod_jax.language.post_training import Tunables, program_key
from dipod_jax.options import override
from dipod_jax.runs import RunFolder, RunFolderError
from dipod_jax.studies.table1.arms import FAMILY, GROUPS, Arm, make_arms
from dipod_jax.studies.table1.options import Config
from dipod_jax.studies.table1.results import read_records, write_results
from dipod_jax.studies.table1.study import Trainer, check_settings, make_units, run
from dipod_jax.types import Scores

ARMS = ("fpo-beta0.05", "fpo-beta0.0", "d1-beta0.05", "d1-beta0.0", "spg-beta0.05", "spg-beta0.0")


@pytest.fixture
def options(tmp_path):
    return Config(seeds=2, tasks=("sudoku",), groups=("table",), out=tmp_path / "out")


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr("dipod_jax.studies.table1.results.draw", lambda records, path: None)


def fake_train(trained, stops_at=None, resumed=()):
    """Leaves a finished run: greedy .5 for fpo, .6 for d1, .7 for spg; a tenth more with beta, .02 more for seed 1."""

    def train(config, say):
        name, seed = f"{config.out.parent.name}/{config.out.name}", config.first_seed
        trained.append(name)
        if config.resume:
            resumed.append(name)
        folder = RunFolder.resume(config.out) if config.resume else RunFolder.create(config.out, to_json(config))
        value = {"fpo": 0.5, "d1": 0.6, "spg": 0.7}.get(config.method, 0.1) + (0.1 if config.beta else 0.0)
        value += 0.02 * seed
        for iteration, gap in ((0, 9.0), (60, 2.5), (75, 3.0), (90, 3.5)):  # of the last three 3 is the mean
            head = {"seed": seed, "iteration": iteration, "env_steps": iteration, "wall_clock_s": 1.0}
            evaluation = {"greedy": value, "return_mean": value, "num_problems": 8}
            folder.append_metrics({"kind": "evaluation", **evaluation, **head})
            cosine = 3.0 if iteration == 75 else math.nan
            drift = {"drift/gap": gap, "drift/entropy": gap, "drift/gradient_cosine": cosine}
            folder.append_metrics({"kind": "drift", **drift, **head})
        if name == stops_at:
            folder.close()
            raise KeyboardInterrupt
        each = lambda x: {"mean": x, "per_seed": [x]}
        accuracy = {n: each(value) for n in ("greedy", "sampled", "random_order", "greedy_validity")}
        result = {"task": config.task, "built_in_beta": float(Tunables.of(config).beta) - (config.beta or 0.0)}
        result |= {"objective": config.method, "seeds": [seed], "before": {"greedy": each(0.3)}}
        result |= {"final": accuracy, "training_s": 4.0, "wall_clock_s": 9.0, "samples": 90}
        folder.write_result(result | {"final_return": each(value)})
        folder.close()

    return train


def test_every_arm_has_a_folder_of_its_own_and_a_config_that_differs_as_it_says():
    arms = make_arms(TASKS, GROUPS)
    assert len({(arm.task, arm.name) for arm in arms}) == len(arms)
    configs = [arm.config() for arm in arms]
    assert len({repr(config) for config in configs}) == len(arms)
    of = lambda group: [arm for arm in make_arms(["sudoku"], [group])]
    assert {(arm.method, arm.beta) for arm in of("table") + of("other-betas")} == {
        (method, beta) for method in ("d1", "fpo", "spg") for beta in (0.0, 0.01, 0.05, "auto")
    }
    assert {arm.method for arm in of("family")} == set(FAMILY)
    assert [arm.config().learning.num_iterations for arm in of("longer")] == [180] * 6
    assert of("random-order")[0].config().policy.decoder.order == "random"
    rates = {(arm.method, arm.config().learning.learning_rate) for arm in of("rates")}
    assert rates == {("fpo", 1e-4), ("fpo", 1e-3), ("d1", 1e-4), ("d1", 1e-3), ("spg", 3e-4), ("spg", 1e-3)}


def test_a_method_of_the_wider_family_has_the_beta_that_shifts_its_advantages_as_far_as_that_of_fpo():
    """At the acting policy the gradient of objective + beta ELBO is that of a mean of (c A + beta) l."""
    shifts = {}
    for method, beta in {"fpo": 0.05, **FAMILY}.items():
        objective = Arm("sudoku", "family", method).config().objective
        loss = jnp.asarray(np.random.default_rng(0).uniform(0.5, 2.0, (8, 3)), jnp.float32)
        known = jnp.ones_like(loss, bool)
        old = Scores(loss, jnp.full(3, 1 / 3), known, loss.mean(-1))
        advantage = 0.01 * jnp.array([1.0, -1.0] * 4) if method != "dmpo" else 0.2 * jnp.array([1.0, -1.0] * 4)
        of_loss = lambda x, o=objective, s=old, a=advantage: o(s._replace(loss=x), s, s, a)[0]
        per_sample = 8 * jax.grad(of_loss)(loss).sum(-1)
        shifts[method] = beta / float(jnp.mean(per_sample / advantage))
    assert shifts == pytest.approx(dict.fromkeys(shifts, 0.05), rel=0.05)


def test_the_released_objective_pulls_the_bound_loose_and_with_beta_hardly_tightens_it():
    released = [arm.config() for arm in make_arms(["sudoku"], ["released"])]
    assert [float(Tunables.of(config).beta) for config in released] == pytest.approx([-0.04, 0.01])


def test_arms_that_differ_in_numbers_alone_share_a_program():
    base = Arm("sudoku", "table", "fpo")
    key = lambda arm: program_key(arm.config())
    shared = [Arm("sudoku", "", "fpo", 0.05), Arm("sudoku", "", "fpo", "auto"), Arm("sudoku", "", "fpo", longer=2)]
    shared += [Arm("sudoku", "", "fpo", changes={f"learning.{n}": 0.5}) for n in ("learning_rate", "advantage_shift")]
    assert {key(arm) for arm in shared} == {key(base)}
    others = [Arm("countdown", "", "fpo"), Arm("sudoku", "", "d1"), Arm("sudoku", "", "fpo-released")]
    others += [Arm("sudoku", "", "fpo", changes={"learning.advantages": "positive"})]
    assert key(base) not in {key(arm) for arm in others}


@pytest.mark.usefixtures("no_picture")
def test_what_is_finished_is_not_run_again_and_what_was_stopped_is_resumed(options):
    trained, units = [], make_units(options)
    with pytest.raises(KeyboardInterrupt):
        run(options, units, fake_train(trained, stops_at="d1-beta0.05/seed0"), say=lambda line: None)
    assert trained == ["fpo-beta0.05/seed0", "fpo-beta0.0/seed0", "d1-beta0.05/seed0"]
    again, resumed = [], []
    run(options, units, fake_train(again, resumed=resumed), say=lambda line: None)
    assert resumed == ["d1-beta0.05/seed0"]
    assert again[:5] == [*(f"{n}/seed0" for n in ARMS[2:]), "fpo-beta0.05/seed1"] and len(again) == 4 + 6
    last, moved = [], options.out.rename(options.out.parent / "moved")
    there = dataclasses.replace(options, out=moved, cache=moved)
    run(there, make_units(there), fake_train(last), say=lambda line: None)
    assert last == []


def test_another_processs_arm_is_left_alone(options):
    unit = make_units(options)[0]
    unit.folder.mkdir(parents=True)
    (unit.folder / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError):
        run(options, [unit], fake_train([]), say=lambda line: None)
    assert (unit.folder / "notes.txt").read_text() == "mine"


def test_a_folder_of_the_same_arm_with_other_options_is_not_gone_on_with(options):
    unit = make_units(options)[0]
    other = override(unit.config, {"learning.num_prompts": 3})
    RunFolder.create(unit.folder, to_json(other)).close()
    for _ in range(2):  # begun, then finished
        with pytest.raises(ValueError, match=r"another learning\.num-prompts; delete its folder"):
            run(options, [unit], fake_train([]), say=lambda line: None)
        (unit.folder / "arm.json").write_text("{}")


@pytest.mark.usefixtures("no_picture")
def test_the_table_has_the_papers_form_and_the_csv_a_row_for_each_seed(options):
    wide = dataclasses.replace(options, groups=("table", "released", "family"))
    units = [u for u in make_units(wide) if u.arm.group != "family" or u.arm.method == "wd1"]
    path = run(wide, units, fake_train([]), say=lambda line: None)
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in path.read_text().splitlines() if line[:1] == "|"]
    papers, rows = rows[:10], rows[10:]
    assert papers[0] == ["method", "Sudoku, %"] and papers[2:4] == [["d1", "61.0"], ["d1 + DiPOD", "71.0"]]
    assert papers[4:6] == [["fpo-released", "11.0"], ["fpo-released + DiPOD", "21.0"]] and len(papers[6:]) == 4
    assert rows[0] == ["greedy accuracy, %", "beta 0", "beta 0.01", "beta 0.05", "beta auto"]
    assert rows[2:5] == [
        ["d1", "61.0", "-", "71.0", "-"],
        ["fpo", "51.0", "-", "61.0", "-"],
        ["spg", "71.0", "-", "81.0", "-"],
    ]
    of = {(row[0], row[2]): row for row in rows}
    assert of["fpo-released", "-0.04"][4:6] == ["0.30", "0.110 (0.10 0.12)"] and ("fpo-released", "0.01") in of
    assert of["wd1", "0.1"][8:] == ["3.00 (3.00 3.00)", "3.00", "3.00 (3.00 3.00)"]
    with (options.out / "table1.csv").open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == 2 * (6 + 2 + 2)
    first = next(row for row in written if row["method"] == "spg" and row["beta"] == "0.0" and row["seed"] == "1")
    assert float(first["greedy"]) == pytest.approx(0.72) and first["before"] == "0.3"


def test_the_figure_has_a_column_for_each_method(options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dipod_jax.studies.table1.results.draw", lambda records, path: None)
        run(options, make_units(options)[1:4], fake_train([]), say=lambda line: None)  # of fpo and d1
    write_results(options.out)
    assert Image.open(options.out / "table1.png").size == (150 * (1 + 3 * 2), round(150 * 8.2))


def test_tables_can_be_made_of_an_empty_folder(tmp_path):
    assert write_results(tmp_path).read_text().startswith("- greedy")
    assert read_records(tmp_path) == [] and not (tmp_path / "table1.png").exists()


def test_a_folder_keeps_its_iterations_and_takes_more_seeds(options):
    run(options, [], fake_train([]), say=lambda line: None)
    check_settings(dataclasses.replace(options, groups=("longer",), tasks=("countdown",), seeds=3))
    with pytest.raises(ValueError, match=r"--num-iterations 5 .* begun with None"):
        check_settings(dataclasses.replace(options, num_iterations=5))


@pytest.mark.slow
def test_arms_of_one_method_are_trained_by_one_program_and_leave_tables(tmp_path):
    from dipod_jax.language import Sudoku
    from dipod_jax.language.config import MeasureOptions, NetworkOptions, make_config
    from dipod_jax.language.pretrain import PretrainOptions

    def small(task, method):
        config = make_config(
            task,
            method,
            problems=Sudoku(blanks=3, puzzles_per_grid=2),
            pretraining=PretrainOptions(steps=3, batch_size=8),
            network=NetworkOptions(width=16, num_layers=1),
            measure=MeasureOptions(drift_prompts=1, num_problems=8),
        )
        return override(config, {"learning.num_prompts": 2, "learning.samples_per_prompt": 2})

    options = Config(1, ("sudoku",), ("table",), num_iterations=2, out=tmp_path / "out", cache=tmp_path / "cache")
    units, trainer = make_units(options, small)[:2], Trainer()
    path = run(options, units, trainer, say=lambda line: None)
    (programs,) = trainer.programs.values()
    assert programs.iterate._cache_size() == 1
    assert "fpo" in path.read_text() and len(read_records(options.out)) == 2
    described = json.loads((units[0].folder / "arm.json").read_text())
    assert described["beta"] == 0.05 and described["num_iterations"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--groups", "best"], ["--groups best", "table"]),
        (["--tasks", "chess"], ["--tasks chess", "sudoku"]),
        (["--seeds", "0"], ["--seeds 0"]),
        (["--num-iterations", "0"], ["--num-iterations 0"]),
    ],
)
def test_a_mistake_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    from refusals import errors_of

    monkeypatch.chdir(tmp_path)
    line = errors_of(table1, arguments, capsys)
    assert all(word in line for word in words) and list(tmp_path.iterdir()) == []
