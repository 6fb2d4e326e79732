"""Which runs are seeds of one arm, and what tells arms apart."""

from fake_study import write_run

from dipod_jax.runs import RunFolder
from dipod_jax.studies.collected import Arm, collect, collect_study


def test_runs_that_differ_in_an_option_are_arms_of_their_own(tmp_path):
    runs = [
        write_run(tmp_path / "a", learning={"learning_rate": 0.001}),
        write_run(tmp_path / "b", learning={"learning_rate": 0.003}),
        write_run(tmp_path / "c", learning={"learning_rate": 0.01}, task="FingerSpin"),
    ]
    arms = [seed.arm for seed in collect([RunFolder.open(run) for run in runs]).seeds]
    assert arms == [
        Arm("fpo", "0", "learning.learning-rate 0.001"),
        Arm("fpo", "0", "learning.learning-rate 0.003"),
        Arm("fpo", "0", ""),  # the only run of its task: a recipe of a task is no option
    ]


def test_a_value_that_is_usual_in_one_task_alone_is_named_in_all(tmp_path):
    for task, draws in (("BallInCup", (2, 2, 4, 4)), ("FingerSpin", (2, 2, 2, 2, 4))):
        for index, each in enumerate(draws):
            write_run(tmp_path / "units" / f"{task}{index}", task=task, seeds=[index], policy={"draws": each})
    arms = {(seed.task, seed.seed): seed.arm.options for seed in collect_study(tmp_path).seeds}
    assert arms["BallInCup", 0] == arms["FingerSpin", 0] == "policy.draws 2"


def test_variations_of_a_recipe_are_named_by_what_each_changes(tmp_path):
    recipe = {"learning": {"rate": 1e-3}, "policy": {"draws": 2, "width": 64}}
    changes = ({}, {"draws": 4}, {"draws": 8}, {"width": 32}, {"width": 16, "draws": 4}, {}, {}, {}, {}, {}, {}, {}, {})
    for index, change in enumerate(changes):
        options = recipe | {"policy": recipe["policy"] | change}
        write_run(tmp_path / "units" / f"{index:02}", seeds=[index], **options)
    labels = {seed.seed: seed.arm.label for seed in collect_study(tmp_path).seeds}
    names = ["", ", policy.draws 4", ", policy.draws 8", ", policy.width 32", ", policy.draws 4, policy.width 16"]
    assert labels == {index: f"beta 0{(names + 8 * [''])[index]}" for index in range(len(changes))}


def test_runs_of_several_presets_are_told_apart_by_the_preset_alone(tmp_path):
    runs = [write_run(tmp_path / n, preset=n, rollout={"num_envs": k}) for k, n in enumerate(("cpu", "paper"))]
    arms = [seed.arm.options for seed in collect([RunFolder.open(run) for run in runs]).seeds]
    assert arms == ["preset cpu", "preset paper"]


def test_an_option_that_came_later_tells_runs_apart_from_those_that_leave_it_out(tmp_path):
    runs = [
        write_run(tmp_path / "a", policy={"name": "flow"}),
        write_run(tmp_path / "b", policy={"name": "flow", "base_velocity": "gaussian"}),
    ]
    arms = [seed.arm.options for seed in collect([RunFolder.open(run) for run in runs]).seeds]
    assert arms == ["policy.base-velocity gaussian", "policy.base-velocity zero"]


def test_an_option_that_a_folder_lacks_tells_nothing_but_a_regulariser_that_it_lacks_is_off(tmp_path):
    runs = [
        write_run(tmp_path / "a", regularisers={}),
        write_run(tmp_path / "b", regularisers={"k2": {"weight": 0.1}}, seeds=[1], newer=3),
    ]
    arms = [seed.arm.options for seed in collect([RunFolder.open(run) for run in runs]).seeds]
    assert arms == ["regularisers.k2.weight 0.1", "regularisers.k2.weight off"]
