"""What a study trains: every arm that is not finished, with one compiled program where that serves all."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dipod_jax.presets import smoke
from dipod_jax.runs import RunFolder
from dipod_jax.serialisation import to_json
from dipod_jax.studies.ablation import PARTS, RECIPE, without_effect
from dipod_jax.studies.arms import is_finished, run_arms

SMOKE = smoke("BallInCup", "fpo")


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """What would be compiled, trained and drawn."""
    seen: list[tuple] = []

    def make_programs(config, seeds):
        def compiled():
            seen.append(("compile", config.beta))
            return f"program of beta {config.beta}"

        return SimpleNamespace(compile=compiled)

    monkeypatch.setattr("dipod_jax.training.setup.prepare_jax", lambda config: None)
    monkeypatch.setattr("dipod_jax.training.programs.make_programs", make_programs)
    monkeypatch.setattr(
        "dipod_jax.training.loop.train", lambda config, *, started, programs: seen.append((programs, config.beta))
    )
    monkeypatch.setattr(
        "dipod_jax.studies.comparison.compare", lambda folders, out, *, labels: seen.append((out, labels)) or "table"
    )
    return seen


def arms(tmp_path):
    return {f"beta {beta}": replace(SMOKE, beta=beta, out=tmp_path / f"beta{beta}") for beta in (0.0, 0.5)}


def test_arms_that_differ_in_tunables_share_one_program(tmp_path, calls):
    said = []
    run_arms(arms(tmp_path), one_program=True, say=said.append)
    program = "program of beta 0.0"
    assert calls == [("compile", 0.0), (program, 0.0), (program, 0.5), (tmp_path, ("beta 0.0", "beta 0.5"))]
    assert said[0] == f"beta 0.0: {tmp_path / 'beta0.0'}" and said[-2:] == ["table", f"pictures are in {tmp_path}"]


def test_other_arms_are_compiled_one_by_one(tmp_path, calls):
    run_arms(arms(tmp_path), one_program=False, say=lambda line: None)
    assert [call[0] for call in calls[:-1]] == ["compile", "program of beta 0.0", "compile", "program of beta 0.5"]


def test_an_arm_is_finished_when_its_result_has_gone_as_far_as_is_asked(tmp_path):
    config = replace(SMOKE, out=tmp_path / "run")
    assert not is_finished(config)
    folder = RunFolder.create(config.out, to_json(config))
    resumed = replace(config, resume=True)
    assert not is_finished(resumed)
    folder.write_result({"env_steps": config.planned_steps})
    assert is_finished(resumed)
    assert not is_finished(replace(resumed, total_steps=2 * config.total_steps))


def test_a_part_has_no_effect_where_the_recipe_has_it_already(tmp_path):
    same = replace(SMOKE, out=tmp_path, resume=True)
    assert without_effect({RECIPE: SMOKE, "same": same, "other": replace(SMOKE, beta=0.7)}, SMOKE) == ["same"]
    assert PARTS[RECIPE] == () and all(PARTS[part] for part in PARTS if part != RECIPE)
