"""Post-training: an iteration against arithmetic and enumeration, and a run that leaves what it should."""

import dataclasses
import itertools
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_language import small_config

from dipod_jax.commands import evaluate
from dipod_jax.language import MASK, TASKS, Sudoku
from dipod_jax.language.config import (
    LearningOptions,
    NetworkOptions,
    built_in_beta,
    from_json,
    make_config,
    to_json,
)
from dipod_jax.language.decoding import DecoderOptions
from dipod_jax.language.loop import Run, train
from dipod_jax.language.measurement import measure_drift
from dipod_jax.language.methods import available_methods
from dipod_jax.language.post_training import (
    Learner,
    Programs,
    RunState,
    Tunables,
    _map_seeds,
    group_advantage,
    make_programs,
)
from dipod_jax.language.replay import LoadedRun, choose_problems, load_run
from dipod_jax.options import override
from dipod_jax.runs import RunFolder
from dipod_jax.types import make_scores


@pytest.fixture(scope="module")
def learner():
    return Learner(small_config())


@pytest.fixture(scope="module")
def params(learner):
    return random_params(learner)


def random_params(learner):
    """Fresh parameters with a head that is not 0, so that a gradient reaches every layer."""
    params = learner.policy.init(jax.random.key(0))
    head = params["params"]["head"]["kernel"]
    params["params"]["head"]["kernel"] = 0.3 * jax.random.normal(jax.random.key(1), head.shape)
    return params


def state_of(learner, params, **tunables):
    state = learner.init(params, jnp.uint32(0), Tunables.of(learner.config))
    return state._replace(tunables=state.tunables._replace(**{n: jnp.float32(v) for n, v in tunables.items()}))


def test_group_advantages_are_rewards_less_their_groups_mean():
    np.testing.assert_allclose(
        group_advantage(jnp.array([1.0, 0.0, 0.5, 0.5, 0.2, 0.8]), 2), [0.5, -0.5, 0, 0, -0.3, 0.3]
    )


def test_samples_come_in_groups_of_one_prompt_and_earn_what_the_task_says(learner, params):
    samples, metrics = jax.jit(learner.sample, static_argnums=2)(params, jax.random.key(3), 2)
    assert samples.prompt.shape == (8, 16)
    assert (samples.prompt[:4] == samples.prompt[0]).all() and (samples.prompt[4:] == samples.prompt[4]).all()
    np.testing.assert_array_equal(jnp.where(samples.prompt == MASK, MASK, samples.action), samples.prompt)
    np.testing.assert_allclose(samples.advantage.reshape(2, 4).sum(-1), 0.0, atol=1e-6)
    solutions = {tuple(p): a for p, a in zip(*learner.config.problems.problems("train"), strict=True)}
    answers = np.stack([solutions[tuple(p)] for p in np.asarray(samples.prompt)])
    share = ((np.asarray(samples.action) == answers) & (np.asarray(samples.prompt) == MASK)).sum(1) / 3
    assert float(metrics["reward"]) == pytest.approx(share.mean())


@pytest.mark.slow
def test_at_the_acting_parameters_the_gradient_is_that_of_advantage_plus_beta_times_the_elbo(learner, params):
    """rho = 1: d/dtheta [-(A rho) - beta ELBO] = -(A + beta) dELBO, the mean over samples."""
    state = state_of(learner, params, beta=0.3)
    samples, _ = learner.sample(params, jax.random.key(1), 2)
    evidence = learner._evidence(params, samples, jax.random.key(2))
    old = learner._score(params, samples, evidence)
    found = jax.jit(jax.grad(lambda p: learner.loss(p, samples, evidence, old, state)[0]))(params)
    weighted = lambda p: jnp.mean((samples.advantage + 0.3) * learner._score(p, samples, evidence).mean())
    expected = jax.jit(jax.grad(weighted))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@pytest.mark.slow
def test_the_mean_elbo_gradient_over_masks_tends_to_the_exact_one(learner, params):
    """An iteration's direction is unbiased: many masks of the same samples against autodiff of the exact ELBO."""
    samples, _ = learner.sample(params, jax.random.key(1), 2)
    many = jax.tree.map(lambda x: jnp.tile(x, (1500, *[1] * (x.ndim - 1))), samples)
    evidence = learner._evidence(params, many, jax.random.key(5))
    sampled = jax.jit(jax.grad(lambda p: jnp.mean(many.advantage * learner._score(p, many, evidence).mean())))(params)
    exact = lambda p: -jnp.mean(samples.advantage * learner.policy.exact_bounds(p, samples.prompt, samples.action).elbo)
    expected = jax.jit(jax.grad(exact))(params)
    flat = lambda tree: jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
    distance = jnp.linalg.norm(flat(sampled) - flat(expected)) / jnp.linalg.norm(flat(expected))
    assert float(distance) < 0.05


@pytest.mark.slow
def test_no_advantage_and_no_beta_changes_nothing():
    learner = Learner(override(small_config(), {"learning.advantages": "none"}))
    params = random_params(learner)
    after, _ = jax.jit(learner.iterate)(state_of(learner, params))
    jax.tree.map(np.testing.assert_array_equal, after.params, params)
    assert int(after.iteration) == 1


def test_positive_advantages_drop_the_negative_ones():
    learner = Learner(override(small_config(), {"learning.advantages": "positive"}))
    np.testing.assert_array_equal(learner._shape(jnp.array([-1.0, 0.0, 2.0])), [0.0, 0.0, 2.0])


@pytest.mark.slow
def test_the_first_ratio_is_1_with_shared_and_with_fresh_masks():
    for fresh in (False, True):
        config = override(small_config(), {"learning.fresh_masks": fresh, "learning.inner_updates": 1})
        learner = Learner(config)
        state = state_of(learner, random_params(learner))
        _, metrics = jax.jit(learner.iterate)(state)
        assert float(metrics["first_ratio_error"]) < 1e-6


@pytest.mark.slow
def test_released_fpo_has_the_gradient_of_fpo_and_of_its_kl_to_a_constant(learner, params):
    """The released trainer adds .04 (ELBO - ELBO_ref) to the loss."""
    assert float(Tunables.of(small_config("fpo-released", beta=0.05)).beta) == pytest.approx(0.01)
    released = Learner(small_config("fpo-released"))
    samples, _ = released.sample(params, jax.random.key(1), 2)
    evidence = released._evidence(params, samples, jax.random.key(2))
    old = released._score(params, samples, evidence)
    of = lambda loss: jax.jit(jax.grad(loss))(params)
    found = of(lambda p: released.loss(p, samples, evidence, old, state_of(released, params))[0])
    plain = lambda p: released.loss(p, samples, evidence, old, state_of(released, params), beta=False)[0]
    elbo = lambda p: -released._score(p, samples, evidence).loss.mean(-1)
    expected = of(lambda p: plain(p) + jnp.mean(0.04 * (elbo(p) - jax.lax.stop_gradient(elbo(params)))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "scale"), [("wd1", 1.0), ("dmpo", 0.04)])
def test_softmax_weights_are_over_the_answers_to_one_prompt(objective, scale):
    """A prompt with answers far apart takes nothing from another whose answers are nearly alike."""
    learner = Learner(small_config(objective))
    params = random_params(learner)
    samples, _ = learner.sample(params, jax.random.key(1), 2)
    advantage = scale * jnp.array([5.0, -5.0, 0.0, 0.0, 0.1, -0.1, 0.0, 0.0])
    evidence = learner._evidence(params, samples, jax.random.key(2))
    old = learner._score(params, samples, evidence)
    slope = lambda samples: jax.grad(
        lambda loss: learner._of_groups(
            learner.config.objective, old._replace(loss=loss), old, None, samples.advantage
        )[0]
    )(old.loss).sum(-1)
    found = slope(samples._replace(advantage=advantage))
    of_group = lambda a: jax.nn.softmax(a / scale) - jax.nn.softmax(-a / scale)
    expected = 0.5 * jnp.concatenate([of_group(advantage[:4]), of_group(advantage[4:])])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_espo_has_its_own_weight_of_the_kl_of_elbos_that_are_not_divided_by_the_length():
    """Its beta times D^2 / (2 L), where the scores are ELBOs / L."""
    for task, beta, length in (("sudoku", 1e-2, 8), ("countdown", 3e-3, 5)):
        raw = jnp.array([0.7, -1.2])
        new = make_scores(-raw[:, None] / length)
        base = make_scores(jnp.zeros((2, 1)))
        loss, _ = make_config(task, "espo").objective(new, new, base, jnp.zeros(2))
        assert float(loss) == pytest.approx(float((beta * raw**2 / (2 * length)).mean()))
        assert make_config(task, "gdpo").objective.kl_weight is None


@pytest.mark.slow
def test_the_cosine_is_1_for_the_exact_objective_and_minus_1_for_its_opposite(learner, params):
    samples, _ = learner.sample(params, jax.random.key(1), 2)
    exact = lambda p: -jnp.mean(samples.advantage * learner.policy.exact(p, samples.prompt, samples.action)[0])
    measured = jax.jit(lambda sign: measure_drift(learner.policy, params, samples, lambda p: sign * exact(p)))
    for sign, ratio in ((1.0, 1.0), (-3.0, 3.0)):
        drift = measured(sign)
        assert float(drift["gradient_cosine"]) == pytest.approx(sign / ratio, abs=1e-5)
        assert float(drift["gradient_norm_ratio"]) == pytest.approx(ratio, rel=1e-5)


@pytest.mark.slow
def test_the_gap_is_that_of_a_sum_over_all_orders(learner, params):
    """Three blanks have six orders; each gives the answer a probability, their mean is the likelihood."""
    samples, _ = learner.sample(params, jax.random.key(1), 2)
    drift = measure_drift(learner.policy, params, samples, lambda p: jnp.sum(p["params"]["position"]))
    found = []
    for prompt, action in zip(np.asarray(samples.prompt), np.asarray(samples.action), strict=True):
        orders = []
        for order in itertools.permutations(np.flatnonzero(prompt == MASK)):
            board, total = prompt.copy(), 0.0
            for cell in order:
                total += float(jax.nn.log_softmax(learner.policy.logits(params, board))[cell, action[cell] - 1])
                board[cell] = action[cell]
            orders.append(total)
        found.append((np.logaddexp.reduce(orders) - np.log(len(orders)), np.mean(orders)))
    log_prob, elbo = np.array(found).T
    assert float(drift["log_prob"]) == pytest.approx(log_prob.mean(), abs=1e-4)
    assert float(drift["gap"]) == pytest.approx((log_prob - elbo).mean(), abs=1e-4)
    assert float(drift["gap_max"]) == pytest.approx((log_prob - elbo).max(), abs=1e-4)
    assert float(drift["gap"]) > 1e-4


@pytest.mark.parametrize(
    ("built_in", "gap", "factor"), [("fpo", 9.0, 1.5), ("fpo", 0.0, 1 / 1.5), ("fpo-released", 9.0, 1.5)]
)
def test_an_automatic_beta_follows_the_gap_and_leaves_what_the_methods_own_code_adds(tmp_path, built_in, gap, factor):
    config = small_config(built_in, beta="auto", out=tmp_path / "run")
    run = Run(config, programs=Programs(None, None, None, None, None), say=lambda line: None)
    run.state = RunState(
        None, None, None, Tunables.of(config)._replace(beta=jnp.array([0.04 + built_in_beta(config)])), None, 0
    )
    run.records["drift"] = [{"seed": 0, "iteration": 0, "drift/gap": gap}]
    run._control_beta()
    assert run.state.tunables.beta == pytest.approx(0.04 * factor + built_in_beta(config))
    run.close()


@pytest.mark.slow
def test_one_program_serves_other_betas_and_rates_and_its_seeds_are_those_of_single_runs():
    config = small_config(seeds=2)
    programs = make_programs(config)
    params = random_params(programs)
    both = programs.init(params, jnp.arange(2), Tunables.of(config))
    after, metrics = programs.iterate(both)
    single = make_programs(dataclasses.replace(config, seeds=1))
    alone, alone_metrics = single.iterate(single.init(params, jnp.array([1]), Tunables.of(config)))
    assert metrics["reward"].shape == (2,)
    np.testing.assert_allclose(metrics["reward"][1], alone_metrics["reward"][0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[0], atol=1e-5), after.params, alone.params)
    other = programs.init(params, jnp.arange(2), Tunables.of(dataclasses.replace(config, beta=0.5)))
    _, changed = programs.iterate(other)
    assert float(changed["beta"][0]) == 0.5
    assert programs.iterate._cache_size() == 1


@pytest.mark.slow
def test_distillation_phases_move_the_policy_without_reward():
    base = override(small_config(), {"learning.advantages": "none"})
    learner = Learner(override(base, {"learning.distillation_interval": 2, "learning.distillation_steps": 2}))
    params = random_params(learner)
    first, _ = jax.jit(learner.iterate)(state_of(learner, params))
    second, _ = jax.jit(learner.iterate)(first)
    jax.tree.map(np.testing.assert_array_equal, first.params, params)  # due after every second iteration
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (second.params, params)), strict=True))


QUICK = ("fpo", "coupled-grpo")  # of draws shared by an update, and by token; the others are slow tests


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in available_methods()],
)
def test_every_method_takes_an_iteration_with_finite_numbers(objective):
    learner = Learner(small_config(objective, beta=0.05))
    state = state_of(learner, random_params(learner))
    after, metrics = jax.jit(learner.iterate)(state)
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True))


@pytest.mark.slow
def test_drift_of_a_uniform_policy_is_0_and_its_entropy_that_of_the_blanks(learner):
    """A fresh network is uniform over 4 words: every order has probability 4^-3."""
    params = learner.policy.init(jax.random.key(0))
    drift = jax.jit(learner.measure)(state_of(learner, params))
    for name in ("gap", "gap_max", "renyi_gap", "eubo_gap", "decoder_gap"):
        assert float(drift[name]) == pytest.approx(0.0, abs=1e-5)
    assert float(drift["entropy"]) == pytest.approx(3 * np.log(4), abs=1e-4)


@pytest.mark.slow
def test_a_run_leaves_a_folder_that_says_what_it_was_and_what_came_out(tmp_path, capsys):
    test_file = tmp_path / "test.csv"
    grid = "".join(map(str, Sudoku(blanks=3, puzzles_per_grid=2).problems("train").answer[0]))  # a training grid
    lines = ["Puzzle,Solution", "3102200002100320,3142243142131324", f"{grid[:8]}00000000,{grid}"]
    test_file.write_text("\n".join(lines))  # 8 blanks, the task's have 3
    config = small_config(beta="auto", seeds=2, out=tmp_path / "run", cache=tmp_path / "cache", test_file=test_file)
    said = []
    result = train(config, say=said.append)
    folder = RunFolder.open(tmp_path / "run")
    assert from_json(folder.config) == config
    assert folder.read_result() == json.loads(json.dumps(result))
    records = folder.read_metrics()
    of = lambda kind: [(r["iteration"], r["seed"]) for r in records if r["kind"] == kind]
    assert of("train") == [(i, s) for i in (1, 2, 3) for s in (0, 1)]
    assert of("drift") == of("evaluation") == [(i, s) for i in (0, 2, 3) for s in (0, 1)]
    drift = next(r for r in records if r["kind"] == "drift")
    assert drift["drift/gap"] >= -1e-5 and -1.0 <= drift["drift/gradient_cosine"] <= 1.0
    assert len(result["final"]["test_file/greedy"]["per_seed"]) == 2
    low, high = result["final"]["greedy"]["ci95"]
    assert low <= result["final"]["greedy"]["mean"] <= high
    assert result["test_file"] == {"path": str(test_file), "num_problems": 2, "num_unseen": 1}
    assert result["samples"] == 24 and any("greedy" in line for line in said)
    for seed in (0, 1):
        loaded = load_run(tmp_path / "run", seed)
        accuracy = loaded.evaluate(config.problems.read(test_file))
        assert float(accuracy.greedy.mean()) == result["final"]["test_file/greedy"]["per_seed"][seed]
    with pytest.raises(ValueError, match="--seed 2"):
        load_run(tmp_path / "run", 2)
    assert (tmp_path / "run" / "drift.png").exists() and "greedy accuracy" in (tmp_path / "run/report.html").read_text()
    evaluate.main([str(tmp_path / "run"), "--seed", "1", "--boards", "1", "--test-file", str(test_file)])
    shown, _, accuracy = capsys.readouterr().out.rpartition("{")
    assert shown.startswith("3 1  . 2\n2 .  . .\n. 2  1 .\n. 3  2 .\n\n") and shown.count("\n\n") == 5
    assert json.loads("{" + accuracy)["greedy"] == result["final"]["test_file/greedy"]["per_seed"][1]
    written = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert (written["num_problems"], written["num_unseen"], written["seed"]) == (2, 1, 1)
    assert written["greedy_unseen"] == result["final"]["test_file/greedy_unseen"]["per_seed"][1]
    boards = loaded.show(config.problems.read(test_file).prompt[0]).split("\n\n")
    assert boards[0] == "3 1  . 2\n2 .  . .\n. 2  1 .\n. 3  2 ."
    assert [board.count(".") for board in boards] == [8, 6, 4, 2, 0]


def test_what_a_task_and_a_method_have_of_their_own_stands_under_what_is_given(monkeypatch):
    """The task's word goes over the method's, that of both together over either; a task of a user's own needs no
    other file."""
    espo = make_config("sudoku", "espo")
    assert (espo.objective.kl_weight, espo.learning.learning_rate) == (0.08, 3e-4)  # .01 and 8 blanks
    espo = make_config("countdown", "espo")
    assert (espo.objective.kl_weight, espo.learning.learning_rate) == (0.015, 1e-4)  # .003 and 5
    assert [make_config(task, "spg").objective.eubo_order for task in TASKS] == [1.0, 1.5]

    class Small(Sudoku):
        name = "small"
        defaults: ClassVar = {"learning.num_iterations": 7, "pretraining.steps": 5}
        method_defaults: ClassVar = {"fpo": {"objective.clip_epsilon": 0.1}}

    monkeypatch.setitem(TASKS, "small", Small)
    config = make_config("small", "fpo", seeds=2)
    assert (config.seeds, config.learning.num_iterations, config.objective.clip_epsilon) == (2, 7, 0.1)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_on_an_accelerator_seeds_are_batched_and_find_what_they_find_one_after_another(learner, params, monkeypatch):
    states = jax.vmap(learner.init, in_axes=(None, 0, None))(params, jnp.arange(3), Tunables.of(learner.config))
    draw = lambda state: jax.random.normal(jax.random.fold_in(state.key, state.iteration), (2,))
    is_a_loop = lambda: "scan" in str(jax.make_jaxpr(lambda s: _map_seeds(draw, s))(states))
    assert is_a_loop()
    one_by_one = _map_seeds(draw, states)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not is_a_loop()
    np.testing.assert_array_equal(_map_seeds(draw, states), one_by_one)


def test_a_policy_that_acts_in_random_order_can_be_evaluated_by_the_default_decoder(learner, params):
    """Its greedy answers are then those of the same parameters in a run that acts by that decoder."""
    of = lambda config: LoadedRun(config, config.build_policy(), params, 0)
    random_order = DecoderOptions("random", 1, None, 1.0)
    acting = of(override(learner.config, {"policy.decoder": random_order}))
    problems = choose_problems(learner.config.problems, None, 8)
    found = acting.acting_by(DecoderOptions())
    assert acting.policy.options.decoder == random_order and found.config == learner.config
    for one, other in zip(found.evaluate(problems), of(learner.config).evaluate(problems), strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.show(problems.prompt[0]).count("\n\n") == 2  # 3 blanks, two a step
    assert acting.show(problems.prompt[0]).count("\n\n") == 3


def test_the_config_is_what_json_gives_back():
    for task, objective in (("sudoku", "fpo"), ("countdown", "spg")):
        config = make_config(task, objective, beta=0.05)
        assert from_json(json.loads(json.dumps(to_json(config)))) == config
    older = json.loads(json.dumps(to_json(config)))
    del older["network"]["head"]
    assert from_json(older) == config
    with pytest.raises(ValueError, match="not of a language run"):
        from_json({"task": "sudoku"})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"beta": -0.1}, "--beta -0.1"),
        ({"seeds": 0}, "--seeds 0"),
        ({"learning": LearningOptions(samples_per_prompt=1)}, "--learning.samples-per-prompt 1"),
        ({"network": NetworkOptions(width=15)}, "--network.width 15"),
        ({"beta": "auto", "problems": Sudoku(blanks=12)}, "--beta auto"),
    ],
)
def test_a_value_out_of_range_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        make_config("sudoku", "fpo", **values)
    with pytest.raises(ValueError, match="--objective best"):
        make_config("sudoku", "best")
    with pytest.raises(ValueError, match="--task chess"):
        make_config("chess")
