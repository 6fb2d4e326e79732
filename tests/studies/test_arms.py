"""What a study trains: every arm that is not finished, with one compiled program where that serves all."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dipod_jax.presets import smoke
from dipod_jax.studies.ablation import PARTS, RECIPE, without_effect
from dipod_jax.studies.arms import run_arms

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
        "dipod_jax.training.loop.train", lambda config, *, programs: seen.append((programs, config.beta))
    )
    monkeypatch.setattr(
        "dipod_jax.studies.comparison.compare", lambda folders, out, *, labels: seen.append((out, labels)) or "table"
    )
    return seen


def arms(tmp_path):
    return {f"beta {beta}": replace(SMOKE, beta=beta, out=tmp_path / f"beta{beta}") for beta in (0.0, 0.5)}


def test_arms_that_differ_in_tunables_share_one_program(tmp_path, calls):
    said = []
    run_arms(arms(tmp_path), say=said.append)
    program = "program of beta 0.0"
    assert calls == [("compile", 0.0), (program, 0.0), (program, 0.5), (tmp_path, ("beta 0.0", "beta 0.5"))]
    assert said[0] == f"beta 0.0: {tmp_path / 'beta0.0'}" and said[-2:] == ["table", f"pictures are in {tmp_path}"]


def test_a_part_has_no_effect_where_the_recipe_has_it_already(tmp_path):
    same = replace(SMOKE, out=tmp_path, resume=True)
    assert without_effect({RECIPE: SMOKE, "same": same, "other": replace(SMOKE, beta=0.7)}, SMOKE) == ["same"]
    assert PARTS[RECIPE] == () and all(PARTS[part] for part in PARTS if part != RECIPE)
