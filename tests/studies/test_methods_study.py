"""The comparison of all methods: which units there are, what is chosen, what is run again, what the tables say."""

import csv
import json
import math
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image
from small import of_objective, probe_programs

from dipod_jax.objectives import OBJECTIVES
from dipod_jax.options import override
from dipod_jax.presets import make_config
from dipod_jax.runs import RunFolderError
from dipod_jax.runs._disk import write_json
from dipod_jax.runs.lock import FolderLock
from dipod_jax.studies.begun import LOCKS, STUDY
from dipod_jax.studies.methods import training
from dipod_jax.studies.methods.options import Config
from dipod_jax.studies.methods.results import has_collapsed, read_records, seed_rows, summary, write_results
from dipod_jax.studies.methods.study import check_settings, run
from dipod_jax.studies.methods.training import is_due
from dipod_jax.studies.methods.units import Setting, best_of, grid, make_unit, trust_region, with_betas
from dipod_jax.tables import as_csv
from dipod_jax.training.evaluation import EpisodeReturns
from dipod_jax.training.state import TrainState, Tunables


@pytest.fixture
def options(tmp_path):
    return Config(("fpo", "ppo"), ("BallInCup", "FingerSpin"), preset="smoke", backend="native", out=tmp_path / "out")


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr("dipod_jax.studies.methods.results.draw", lambda panels, path: None)


class FakeTrainer:
    """Gives a return that says how a unit is set: 1000 rate + 100 trust + 10 beta, a little more for later seeds."""

    def __init__(self, fails=lambda unit: False):
        self.fails, self.trained = fails, []

    def train(self, unit):
        self.trained.append((unit.task, unit.objective, str(unit.setting), unit.reported))
        if self.fails(unit):
            raise RuntimeError("out of\nmemory")
        return outcome(unit, 1000 * unit.setting.rate + 100 * unit.setting.trust + 10 * unit.setting.beta)


def outcome(unit, value):
    returns = value + np.arange(len(unit.config.all_seeds), dtype=float)
    steps = unit.config.planned_steps
    points = [{"env_steps": steps // 2, "return": 2.0 * returns, "zero_noise": returns}]
    points += [{"env_steps": steps, "return": returns, "zero_noise": returns}]
    drift = [
        {"env_steps": when, "gap": gap + 0 * returns, "cosine": 0 * returns} for when, gap in ((0, 9.0), (steps, 2.0))
    ]
    return {
        "env_steps": steps,
        "evaluations": points,
        "drift": drift if unit.config.drift.interval else [],
        "training_s": 3.0,
        "compile_s": 1.0,
        "skipped_updates": 0 * returns,
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_grid_of_every_method_has_the_same_size_and_differs_in_tunables_alone(name, options):
    cells = grid(options, "BallInCup", name)
    assert len(cells) == len({unit.folder for unit in cells}) == 6
    start, _ = make_config("smoke", "BallInCup", name, "native")
    bounded = trust_region(start)
    assert bounded and set(bounded) <= set(vars(start.objective))
    for unit in cells:
        for option, value in bounded.items():
            assert getattr(unit.config.objective, option) == unit.setting.trust * value
        assert unit.config.learning.learning_rate == unit.setting.rate * start.learning.learning_rate
        assert unit.config.learning.final_learning_rate == unit.setting.rate * start.learning.final_learning_rate
        assert unit.config.beta == 0 and unit.config.all_seeds == options.tuning_seeds
        # what is compiled depends on the structure of the objective, not on its floats
        assert str(tree(unit)) == str(tree(cells[0]))
    betas = with_betas(options, "BallInCup", name, Setting(0.3, 2.0))
    assert [unit.config.beta for unit in betas] == ([0.01, 0.03, 0.1] if start.policy.has_bound else [])


def tree(unit):
    return jax.tree.structure(Tunables.of(unit.config))


@pytest.mark.usefixtures("no_picture")
def test_a_method_without_a_bound_takes_only_beta_0_and_the_rest_the_best_of_each(options):
    trainer = FakeTrainer()
    path = run(replace(options, tasks=("FingerSpin",)), trainer, say=lambda line: None)
    best, with_beta = "rate1-trust2-beta0", "rate1-trust2-beta0.1"
    assert [unit for unit in trainer.trained if unit[3]] == [
        ("FingerSpin", "fpo", best, True),
        ("FingerSpin", "fpo", with_beta, True),
        ("FingerSpin", "ppo", best, True),
    ]
    # tuned on BallInCup, where nothing is reported
    assert {unit[0] for unit in trainer.trained if not unit[3]} == {"BallInCup"}
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines() if line[:1] == "|"
    ]
    heading = "objective,beta,return,zero noise,gap,cosine,collapsed,seconds,rate,trust,tuning"
    assert rows[0] == heading.split(",")
    # 6 cells, and 3 betas more, of 2 seeds and 250,880 (245 x 1024) env steps and of 4 seconds
    assert rows[2][:8] == ["fpo", "0.1", "1202 (1201 1202 1203)", "1202", "2", "0.00", "0 of 3", "3"]
    assert rows[2][8:] == ["1", "2", "4.52M env steps, 36 s"] and rows[3][10] == "3.01M env steps, 24 s"
    assert rows[4][:6] == ["ppo", "0", "1201 (1200 1201 1202)", "1201", "2", "0.00"]


@pytest.mark.usefixtures("no_picture")
def test_what_is_finished_is_not_run_again_and_another_task_adds_to_the_tables(options):
    first, second = FakeTrainer(), FakeTrainer()
    one = replace(options, objectives=("fpo",), tasks=("BallInCup",))
    run(one, first, say=lambda line: None)
    assert len(first.trained) == 6 + 3 + 2
    run(one, second, say=lambda line: None)
    assert second.trained == []
    run(replace(one, tasks=("FingerSpin",)), second, say=lambda line: None)
    assert [unit[:2] for unit in second.trained] == [("FingerSpin", "fpo")] * 2
    text = (options.out / "comparison.md").read_text()
    assert "## BallInCup, 501k env steps" in text and "## FingerSpin, 1M env steps" in text
    with (options.out / "seeds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (6 + 3) * 2 + 4 * 3
    assert {row["seed"] for row in rows if row["run"] == "reported"} == {"301", "302", "303"}
    assert {row["seed"] for row in rows if row["run"] == "tuning"} == {"311", "312"}


@pytest.mark.usefixtures("no_picture")
def test_a_unit_that_fails_is_recorded_and_tried_again_and_the_rest_goes_on(options):
    said, one = [], replace(options, objectives=("fpo",), tasks=("BallInCup",))
    run(one, FakeTrainer(lambda unit: unit.setting.trust == 2.0), said.append)
    failed = one.out / "tuning-BallInCup-250000/fpo/rate1-trust2-beta0"
    assert json.loads((failed / "failure.json").read_text())["error"] == "RuntimeError: out of memory"
    assert any(
        line.endswith("rate1-trust2-beta0: failed, and is left out: RuntimeError: out of memory") for line in said
    )
    assert "- tuning-BallInCup-250000/fpo/rate1-trust2-beta0: Runtime" in (one.out / "comparison.md").read_text()
    again = FakeTrainer()
    run(one, again, said.append)
    # the failed cells, then what the choice that is now another's needs
    assert [unit[2] for unit in again.trained[:2]] == ["rate0.3-trust2-beta0", "rate1-trust2-beta0"]
    assert ("BallInCup", "fpo", "rate1-trust2-beta0.1", True) in again.trained
    assert not (failed / "failure.json").exists()


@pytest.mark.usefixtures("no_picture")
def test_a_method_that_another_process_has_is_left_to_it_until_it_ends(options):
    folder = options.out / LOCKS / "fpo"
    folder.mkdir(parents=True)
    lock, trainer = FolderLock(folder), FakeTrainer()
    run(options, trainer, say=lambda line: lock.release() if line.startswith("waiting") else None)
    methods = [(task, objective) for task, objective, _, reported in trainer.trained if reported]
    assert list(dict.fromkeys(methods)) == [
        ("BallInCup", "ppo"),
        ("FingerSpin", "ppo"),
        ("BallInCup", "fpo"),
        ("FingerSpin", "fpo"),
    ]


@pytest.mark.usefixtures("no_picture")
def test_what_another_process_of_the_same_command_tried_in_vain_is_left_alone(options):
    one = replace(options, objectives=("fpo",), tasks=("BallInCup",))
    trainer = FakeTrainer()
    train = trainer.train

    def train_beside_another(unit):
        if len(trainer.trained) == 0:
            grid(one, "BallInCup", "fpo")[5].write_failure(MemoryError("in the other process"))
        return train(unit)

    trainer.train = train_beside_another
    run(one, trainer, say=lambda line: None)
    assert "rate1-trust2-beta0" not in [unit[2] for unit in trainer.trained]


def test_where_every_tuning_run_fails_nothing_is_reported(options):
    said = []
    path = run(replace(options, objectives=("ppo",), tasks=("BallInCup",)), FakeTrainer(lambda unit: True), said.append)
    assert said[-1] == "ppo on BallInCup: no tuning run has a return, so that nothing is reported"
    assert "##" in path.read_text() and "Failed" in path.read_text()


def test_a_full_disk_ends_the_study(options):
    def full(unit):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        run(options, FakeTrainer(full), say=lambda line: None)


def test_the_best_setting_has_the_highest_mean_and_a_return_that_is_no_number_is_never_it(options):
    cells = grid(options, "BallInCup", "fpo")
    assert best_of(cells) is None
    for unit, value in zip(cells, (5.0, 7.0, math.nan, 6.0), strict=False):
        unit.write(outcome(unit, value))
    assert best_of(cells) == cells[1].setting == Setting(0.3, 1.0)
    # of equals the one that is nearest to the preset
    cells[3].write(outcome(cells[3], 7.0))
    assert best_of(cells) == cells[3].setting == Setting(1.0, 0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed_list": (1, 2, 3)}, "--seed-list .* is not allowed: .* was begun with"),
        ({"betas": (0.5,)}, "--betas .* begun with"),
        ({"tuning_seeds": (301,)}, "--tuning-seeds 301 .* not in --seed-list"),
        ({"objectives": ("fpo", "foo")}, "--objectives foo"),
        ({"rate_factors": (0.0,)}, "--rate-factors 0.0"),
        ({"trust_factors": (9.0,), "objectives": ("gdsd",)}, "--objective.clip-epsilon 1.8"),
        ({"tuning_share": 1.5}, "--tuning-share 1.5"),
        ({"tasks": ("Foo",)}, "--task Foo"),
    ],
)
def test_a_mistake_is_one_line(options, changes, words):
    options.out.mkdir()
    write_json(options.out / STUDY, options.settings())
    check_settings(replace(options, objectives=("ppo",), tasks=("FingerSpin",)))
    with pytest.raises(ValueError, match=words):
        check_settings(replace(options, **changes))


@pytest.mark.usefixtures("no_picture")
def test_results_of_another_recipe_are_refused_before_anything_is_trained(options, monkeypatch):
    one = replace(options, objectives=("fpo",), tasks=("BallInCup",))
    run(one, FakeTrainer(), say=lambda line: None)
    check_settings(one)

    def another_preset(*args):
        config, note = make_config(*args)
        return override(config, {"learning.gae_lambda": 0.5}), note

    monkeypatch.setattr("dipod_jax.studies.methods.units.make_config", another_preset)
    with pytest.raises(RunFolderError, match=r"with learning.gae-lambda 0.8, now 0.5; name another --out"):
        check_settings(one)
    check_settings(replace(one, objectives=("ppo",)))  # whose runs would all be of one recipe
    trainer = FakeTrainer()
    with pytest.raises(RunFolderError, match="gae-lambda"):
        run(one, trainer, say=lambda line: None)
    assert trainer.trained == []


def test_a_result_that_does_not_say_how_it_was_trained_is_drawn_and_not_gone_on_with(options):
    unit = make_unit(options, "BallInCup", "fpo", Setting(), reported=True)
    unit.write(outcome(unit, 10.0))
    path = unit.folder / "result.json"
    earlier = {name: value for name, value in json.loads(path.read_text()).items() if name != "config"}
    write_json(path, earlier)
    assert len(read_records(options.out)) == 1
    with pytest.raises(RunFolderError, match="noted no options; name another --out"):
        check_settings(options)
    write_json(path, earlier | {"config": {"version": 2}})
    with pytest.raises(RunFolderError, match=r"by another version .*; name another --out"):
        check_settings(options)


def test_a_seed_has_collapsed_where_it_ends_under_half_of_a_best_that_was_worth_the_name():
    assert has_collapsed(249.0, 500.0) and not has_collapsed(250.0, 500.0)
    assert not has_collapsed(1.0, 49.0) and has_collapsed(None, 500.0) and has_collapsed(None, None)


def test_a_seeds_gap_is_the_mean_of_the_second_half_and_nothing_where_none_is_a_number(options):
    unit = make_unit(options, "BallInCup", "fpo", Setting(), reported=True)
    found = outcome(unit, 10.0)
    found["drift"][1]["gap"] = np.array([1.0, math.nan, 3.0])
    record = unit.write(found)
    assert [row["gap"] for row in seed_rows(record)] == [1.0, None, 3.0] and summary(record)["gap"] == 2.0
    assert summary(record)["returns"] == [10.0, 11.0, 12.0] and summary(record)["collapsed"] == 0
    assert as_csv([{"a": None, "b": 1}]) == "a,b\n,1\n"


def test_evaluations_come_at_equal_parts_and_at_the_end():
    assert [i for i in range(1, 9) if is_due(i, 8, 4)] == [2, 4, 6, 8]
    assert [i for i in range(1, 4) if is_due(i, 3, 8)] == [1, 2, 3]
    assert [i for i in range(1, 6) if is_due(i, 5, 1)] == [5]


@dataclass(frozen=True)
class CountingPrograms:
    """Learns by adding its rate to a number for each seed, and is measured and evaluated by that number."""

    config: object
    seeds: tuple[int, ...]

    def compile(self):
        return self

    def init(self):
        return TrainState(LearnerNumber(np.array(self.seeds, float), None), "actor")

    def with_tunables(self, state, tunables):
        return state._replace(learner=state.learner._replace(rate=float(tunables.learning_rate)))

    def act(self, learner, actor):
        return actor, "transitions"

    def measure(self, learner, transitions):
        return {"drift/gap": learner.value, "drift/gradient_cosine": -learner.value, "drift/other": 0.0}

    def learn(self, learner, transitions):
        learned = learner._replace(value=learner.value + learner.rate)
        return learned, {"skipped_updates": np.ones(len(self.seeds)), "skipped_in_a_row": self.skipped(learned)}

    def skipped(self, learner):
        return np.zeros(len(self.seeds))

    def evaluate(self, learner, num_episodes):
        return EpisodeReturns(*(np.tile(x[:, None], num_episodes) for x in (learner.value, -learner.value)))


class LearnerNumber(NamedTuple):
    value: np.ndarray
    rate: float | None


@pytest.fixture
def made(monkeypatch):
    """The seeds of every program that was made."""
    made = []
    monkeypatch.setattr(training, "make_programs", lambda c, seeds: made.append(seeds) or CountingPrograms(c, seeds))
    return made


@pytest.mark.slow
def test_units_of_one_method_share_a_program_and_another_method_gets_its_own(options, made):
    trainer = training.Trainer()
    for unit in [*grid(options, "BallInCup", "fpo"), make_unit(options, "BallInCup", "fpo", Setting(), reported=True)]:
        trainer.train(replace(unit, config=replace(unit.config, total_steps=1024)))
    assert made == [(311, 312), (301, 302, 303)]
    trainer.train(make_unit(replace(options, total_steps=1024), "BallInCup", "ppo", Setting(), reported=False))
    assert made[2:] == [(311, 312)]


def test_a_unit_is_measured_before_and_evaluated_after_it_learns(options, made):
    unit = make_unit(replace(options, total_steps=16 * 1024), "BallInCup", "fpo", Setting(rate=0.3), reported=True)
    found, rate = training.Trainer().train(unit), 0.3 * 1.5e-3
    seeds = np.array([301.0, 302.0, 303.0])
    assert [m["env_steps"] for m in found["drift"]] == [1024 * i for i in range(1, 17, 2)]
    assert [e["env_steps"] for e in found["evaluations"]] == [1024 * i for i in range(2, 18, 2)]
    for index, (measured, evaluated) in enumerate(zip(found["drift"], found["evaluations"], strict=True)):
        np.testing.assert_allclose(measured["gap"], seeds + (2 * index + 1) * rate)
        np.testing.assert_array_equal(measured["cosine"], -measured["gap"])
        np.testing.assert_allclose(evaluated["return"], measured["gap"] + rate)
        np.testing.assert_array_equal(evaluated["zero_noise"], -evaluated["return"])
    assert found["skipped_updates"].tolist() == [16.0] * 3 and found["env_steps"] == 16 * 1024


def test_a_seed_that_has_diverged_has_no_return_from_there_on(options):
    class OneDiverges(CountingPrograms):
        def skipped(self, learner):
            return np.where(learner.value > 302.5, [0, 12, 0], 0)  # the second seed's, in its fourth iteration

    unit = make_unit(replace(options, total_steps=16 * 1024), "BallInCup", "fpo", Setting(rate=100.0), reported=True)
    found = training.train(unit, OneDiverges(unit.config, unit.config.all_seeds))
    returns = np.array([evaluation["return"] for evaluation in found["evaluations"]])
    assert np.isnan(returns).tolist() == [[False] * 3] + [[False, True, False]] * 7


@pytest.mark.slow
def test_a_unit_is_trained_under_its_own_tunables_and_seeds_by_a_program_of_others(options, monkeypatch):
    config, made = of_objective("ppo"), []

    def compiled(_, seeds):
        made.append(seeds)
        weight = lambda learner: jax.tree.leaves(learner.params["policy"])[1].reshape(len(seeds), -1).sum(1)
        measure = lambda learner, _: dict.fromkeys(training.MEASURES.values(), weight(learner))
        programs = replace(probe_programs(config, seeds).compile(), measure=measure)
        return SimpleNamespace(compile=lambda: programs)

    monkeypatch.setattr(training, "make_programs", compiled)
    unit = make_unit(options, "BallInCup", "ppo", Setting(), reported=True)
    of = lambda **changes: replace(unit, config=replace(config, total_steps=3 * 512, seed_list=(5, 6), **changes))
    trainer = training.Trainer()
    one, two = trainer.train(of()), trainer.train(of(learning=replace(config.learning, learning_rate=1e-9)))
    assert made == [(5, 6)]
    assert [e["env_steps"] for e in one["evaluations"]] == [512, 1024, 1536] and one["env_steps"] == 1536
    assert [m["env_steps"] for m in one["drift"]] == [0, 512, 1024]
    first, last = np.stack([m["gap"] for m in two["drift"]])[[0, -1]]
    # the same start, measured before it is learned from; then one of them stays where it is
    np.testing.assert_array_equal(one["drift"][0]["gap"], first)
    np.testing.assert_allclose(first, last, atol=1e-4)
    assert (np.abs(one["drift"][-1]["gap"] - first) > 1e-3).all() and first[0] != first[1]
    assert one["training_s"] > 0 and one["skipped_updates"].tolist() == [0.0, 0.0]


def test_the_picture_has_a_panel_for_each_task_and_a_row_for_each_method(options):
    for task in options.tasks:
        for beta in (0.0, 0.1):
            unit = make_unit(options, task, "fpo", Setting(beta=beta), reported=True)
            unit.write(outcome(unit, 500.0 if beta else math.nan))
    write_results(options.out)
    assert Image.open(options.out / "comparison.png").size == (150 * (2.2 + 2 * 3.4), 150 * (1.6 + 0.34))


def test_tables_can_be_made_of_an_empty_folder(tmp_path):
    assert write_results(tmp_path).read_text().startswith("- return: mean of 32")
    assert not (tmp_path / "comparison.png").exists()


PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "results" / "comparison"


def test_the_published_runs_are_rows_of_the_published_table_and_chosen_as_the_study_chooses(tmp_path):
    with tarfile.open(PUBLISHED / "runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    records = read_records(tmp_path)
    rows = set((PUBLISHED / "seeds.csv").read_text().splitlines())
    assert len(records) > 200 and set(as_csv([row for r in records for row in seed_rows(r)]).splitlines()) <= rows
    begun = Config(preset="cpu", backend="native", out=tmp_path)
    with pytest.raises(RunFolderError, match="noted no options"):  # they are of an earlier recipe
        check_settings(begun)
    for record in records:  # as if they were of today's
        setting = Setting(record["rate"], record["trust"], record["beta"])
        make_unit(begun, record["task"], record["objective"], setting, reported=record["reported"]).write(record)
    check_settings(begun)
    for task, objective in {(record["task"], record["objective"]) for record in records if record["reported"]}:
        best = best_of(grid(begun, "BallInCup", objective))
        assert best is not None and make_unit(begun, task, objective, best, reported=True).read() is not None
