"""What every registered objective, regulariser, policy and advantage estimator must do, whoever wrote it."""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from dipod_jax.advantages import ADVANTAGES, Segment, standardise
from dipod_jax.commands.train import parse
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.options import as_arrays, override
from dipod_jax.policies import POLICIES, Policy
from dipod_jax.presets import PRESETS, make_config
from dipod_jax.regularisers import REGULARISERS, Terms
from dipod_jax.serialisation import from_json, to_json
from dipod_jax.types import Evidence, matched

BATCH, OBS, ACTION = 8, 3, 2
WITH_WEIGHT = sorted(set(REGULARISERS) - {"dipod"})  # dipod's is --beta


def small(options):
    """The smallest policy of these options, whose draws have unequal weights."""
    changes = {"hidden_sizes": (4,), "num_steps": 2, "draws": "gauss-legendre", "num_draws": 3, "draws_at_once": None}
    return override(options, {name: value for name, value in changes.items() if hasattr(options, name)})


class Acted(NamedTuple):
    """A policy, parameters, and a batch of its actions with all that they are scored by; nothing was compiled for the
    parameters and the noise."""

    policy: Policy
    score: Callable  # compiled: parameters, observations, actions, evidence
    params: tuple  # acting, present, reference
    obs: jax.Array
    noise: jax.Array
    action: jax.Array
    evidence: Evidence


@functools.cache
def acted(options):
    policy, rng = options.build(OBS, ACTION), np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    acting = jax.tree.map(lambda x: 0.4 * normal(*x.shape), shapes)
    off = lambda: jax.tree.map(lambda x: x + 0.05 * normal(*x.shape), acting)
    obs, noise = normal(BATCH, OBS), normal(BATCH, *policy.noise_shape)

    @jax.jit
    def act(params, obs, noise):
        action, trace = policy.sample(params, obs, noise)
        return action, policy.prepare(params, jax.random.key(0), obs, trace)

    return Acted(policy, jax.jit(policy.score), (acting, off(), off()), obs, noise, *act(acting, obs, noise))


@functools.cache
def scored(options):
    """Scores of actions under the present, the acting and a reference policy."""
    batch = acted(options)
    old, new, reference = (batch.score(p, batch.obs, batch.action, batch.evidence) for p in batch.params)
    return new, old, reference


@functools.cache
def case(name):
    """An objective as `smoke` sets it, and scores by the family that it trains."""
    config, _ = make_config("smoke", "BallInCup", name, "native")
    advantage = jnp.array([1.5, -1.5, 0.5, -0.5, 0.0, 1.0, -1.0, 0.25], jnp.float32)
    return as_arrays(config.objective), *scored(small(config.policy)), advantage


def loss_of(objective, new, old, reference, advantage):
    """Loss and metrics, as the learner calls an objective."""
    return objective(*matched(new, old), reference, advantage)


@jax.jit
def evaluate(objective, new, old, reference, advantage):
    """(loss, metrics), and the gradient in every number of the new scores."""
    return jax.value_and_grad(lambda n: loss_of(objective, n, old, reference, advantage), has_aux=True, allow_int=True)(
        new
    )


def numbers(tree):
    """The leaves that are floating-point numbers."""
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def assert_finite(tree):
    assert all(bool(jnp.isfinite(x).all()) for x in numbers(tree))


def assert_strong_float32(function, *arguments):
    """No leaf of a result is another float than float32 or weakly typed: either would make a second program."""
    for leaf in jax.tree.leaves(jax.eval_shape(function, *arguments)):
        assert not leaf.weak_type and leaf.dtype in (jnp.float32, jnp.bool_, jnp.int32), leaf


def assert_over_seeds_equals_a_loop(function, *arguments, single=None):
    """`function` mapped over three versions of its arguments is what it is of each."""
    versions = [jax.tree.map(lambda x, k=k: jnp.roll(x, k, 0) if jnp.ndim(x) else x, arguments) for k in range(3)]
    factor = lambda tree, f: jax.tree.map(lambda x: x * jnp.float32(f), tree)
    versions = [(factor(v[0], f), *v[1:]) for v, f in zip(versions, (1.0, 0.9, 0.8), strict=True)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *versions)
    mapped, single = jax.jit(jax.vmap(function))(*stacked), single or jax.jit(function)
    for index, version in enumerate(versions):
        same = lambda a, b, i=index: assert_allclose(a[i], b, rtol=1e-4, atol=1e-6)
        jax.tree.map(same, mapped, single(*version))


# --- objectives


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_compiled_to_finite_strong_float32_numbers(name):
    arguments = case(name)
    (loss, metrics), gradient = evaluate(*arguments)
    assert loss.shape == () and all(value.shape == () for value in metrics.values())
    assert_finite(((loss, metrics), gradient))
    assert_strong_float32(loss_of, *arguments)
    config, _ = make_config("smoke", "BallInCup", name, "native")  # options that are plain numbers
    assert_strong_float32(functools.partial(loss_of, config.objective), *arguments[1:])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_mapped_over_seeds_and_over_its_options_is_what_it_is_of_each(name):
    assert_over_seeds_equals_a_loop(loss_of, *case(name), single=lambda *arguments: evaluate(*arguments)[0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_asks_for_a_reference_or_does_not_look_at_it(name):
    objective, new, old, reference, advantage = case(name)
    if not objective.needs_reference:
        nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan) if x.dtype == jnp.float32 else x, reference)
        losses = [evaluate(objective, new, old, r, advantage)[0][0] for r in (reference, nothing)]
        assert losses[0] == losses[1]
        jax.eval_shape(loss_of, objective, new, old, None, advantage)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_three_values_of_every_float_option_are_one_program(name):
    objective, *rest = case(name)
    evaluate(objective, *rest)
    programs = evaluate._cache_size()
    for field in dataclasses.fields(objective):
        if isinstance(value := getattr(objective, field.name), jax.Array):
            for factor in (0.5, 0.75, 0.9):
                evaluate(as_arrays(dataclasses.replace(objective, **{field.name: factor * value})), *rest)
    assert evaluate._cache_size() == programs


EDGES = {
    "ratio of nothing": lambda n, o, r, a: (n._replace(loss=n.loss + 1e4), o, r, a),
    "ratio beyond float32": lambda n, o, r, a: (n, o._replace(loss=o.loss + 1e4), r, a),
    "far reference": lambda n, o, r, a: (n, o, r._replace(loss=r.loss + 1e4), a),
    "all parts of it far": lambda n, o, r, a: (n._replace(loss=n.loss + 1e4), o._replace(loss=o.loss + 1e4), r, a),
    "no advantage": lambda n, o, r, a: (n, o, r, standardise(jnp.full_like(a, 3.0))),
    "one outlier": lambda n, o, r, a: (n, o, r, a.at[0].set(100.0)),
    "unknown scores": lambda n, o, r, a: (forget(n), o, forget(r), a),
    "time 0": lambda n, o, r, a: (at_time(n, 0.0), at_time(o, 0.0), at_time(r, 0.0), a),
    "time 1": lambda n, o, r, a: (at_time(n, 1.0), at_time(o, 1.0), at_time(r, 1.0), a),
    "losses of nothing": lambda n, o, r, a: (*(s._replace(loss=jnp.zeros_like(s.loss)) for s in (n, o, r)), a),
}


def forget(scores):
    """The same with the first action's scores not known."""
    return scores._replace(loss=scores.loss.at[0].set(0.0), known=scores.known.at[0].set(False))


def at_time(scores, t):
    field = scores.field
    return scores if field is None else scores._replace(field=field._replace(time=jnp.full_like(field.time, t)))


def bounds_of(name):
    """Options that bound a log ratio."""
    return {"log_ratio_clip", "step_clip", "path_clip"} & {field.name for field in dataclasses.fields(OBJECTIVES[name])}


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if bounds_of(name)])
def test_an_objective_has_finite_gradients_at_every_edge_however_wide_its_bounds_are(name):
    objective, *rest = case(name)
    wide = dict.fromkeys(bounds_of(name), jnp.float32(1e3))  # float32 overflows first
    assert_finite_at_every_edge(dataclasses.replace(objective, **wide), rest)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_has_finite_gradients_at_every_edge(name):
    objective, *rest = case(name)
    assert_finite_at_every_edge(objective, rest)


def assert_finite_at_every_edge(objective, rest):
    for edge, change in EDGES.items():
        (loss, _), gradient = evaluate(objective, *change(*rest))
        assert np.isfinite(loss), edge
        assert all(np.isfinite(x).all() for x in numbers(gradient)), edge
        if edge == "unknown scores":
            assert_array_equal(gradient.loss[0], 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_loses_nothing_to_float32_at_any_edge(name):
    """Loss and gradient are those of the same formula in float64."""
    objective, *rest = case(name)
    evaluate_double = jax.jit(evaluate.__wrapped__)
    for edge, change in EDGES.items():
        arguments = objective, *change(*rest)
        (loss, _), gradient = evaluate(*arguments)
        with jax.enable_x64(True):
            double = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) if x.dtype == jnp.float32 else x, arguments)
            (loss_double, _), gradient_double = evaluate_double(*double)
        assert loss_double.dtype == jnp.float64
        assert_allclose(loss, loss_double, rtol=1e-2, atol=1e-5, err_msg=edge)
        for x, x_double in zip(numbers(gradient), numbers(gradient_double), strict=True):
            assert_allclose(x, x_double, rtol=1e-2, atol=1e-6, err_msg=edge)


# What the gradient at the acting parameters is, as a multiple of the advantage-weighted loss's (methods that
# weigh draws or samples otherwise are held by their own tests).
ONES = ("fpo", "fpo++", "ppo", "exact-ppo", "espo", "gdpo", "bgpo", "d1", "coupled-grpo", "unigrpo")
FACTORS = dict.fromkeys(ONES, 1.0) | {"gdsd": 2 * 0.05}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_at_the_acting_parameters_a_better_action_is_drawn_in_and_a_worse_one_pushed_away(name):
    objective, _, old, _, advantage = case(name)
    (_, metrics), gradient = evaluate(objective, old, old, old, advantage)
    assert metrics["first_ratio_error"] == 0.0
    direction = gradient.loss[:, 0] if name == "vrpo" else gradient.loss.sum(-1)  # of the first of a pair
    assert_array_equal(np.sign(direction) * (advantage != 0), np.sign(advantage))
    if name in FACTORS:
        expected = FACTORS[name] * advantage[:, None] * old.weight / BATCH
        assert_allclose(gradient.loss, expected, rtol=1e-4, atol=1e-7)


# --- options


def changed(options, group):
    """Flags that set every option of a group to another legal value: words to the next, numbers to .9 of it."""
    hints = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value, hint = getattr(options, field.name), hints[field.name]
        if get_origin(hint) is Literal:
            words = get_args(hint)
            value = words[(words.index(value) + 1) % len(words)]
        elif float in (hint, *get_args(hint)):
            value = 0.5 if value is None else 0.9 * value
        yield f"--{group}.{field.name.replace('_', '-')}", str(value)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_option_of_an_objective_goes_through_the_command_line_and_the_file_and_back(name):
    start, _ = make_config("smoke", "BallInCup", name, "native")
    flags = dict(changed(start.objective, "objective"))
    config = parse(["--objective", name, "--preset", "smoke", "--backend", "native", *sum(flags.items(), ())])
    for field in dataclasses.fields(config.objective):
        given, value = flags[f"--objective.{field.name.replace('_', '-')}"], getattr(config.objective, field.name)
        assert value == (type(value)(given) if not isinstance(value, bool) else given == "True")
    assert from_json(to_json(config)) == config
    assert type(from_json(to_json(config)).objective) is OBJECTIVES[name]


def test_the_weight_of_every_regulariser_goes_through_the_command_line_and_the_file_and_back():
    for objective in ("fpo", "ppo", "dppo"):
        start, _ = make_config("smoke", "BallInCup", objective, "native")
        names = [n for n in WITH_WEIGHT if start.policy.offers(REGULARISERS[n].needs)]
        weights = sum(((f"--regularisers.{n}.weight", "0.25") for n in names), ())
        config = parse(["--objective", objective, "--preset", "smoke", "--backend", "native", *weights])
        assert [n for n, r in vars(config.regularisers).items() if r.weight == 0.25] == names
        assert from_json(to_json(config)) == config


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_preset_of_an_objective_is_valid_and_trains_the_family_that_it_names(name):
    for preset in PRESETS:
        for task in ("BallInCup", "FingerTurnHard"):  # a short and a long horizon
            config, _ = make_config(preset, task, name, "native")
            assert (config.objective.name, config.policy.name) == (name, OBJECTIVES[name].policy)


def test_the_page_of_objectives_has_a_row_for_each_and_for_no_other():
    page = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text()
    table = page[page.index("| name | loss |") :].partition("\n\n")[0]
    assert re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE) == list(OBJECTIVES)
    for name, cls in OBJECTIVES.items():
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"`{cls.policy}`" in row, name
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), name


# --- regularisers


# A method whose scores have what a regulariser needs.
OFFERS = dict.fromkeys((None, "bound", "field"), "fpo") | {"steps": "dppo", "entropy": "ppo"}


@functools.cache
def terms(name):
    """What a regulariser is given, by a policy that has it."""
    config, _ = make_config("smoke", "BallInCup", OFFERS[REGULARISERS[name].needs], "native")
    batch = acted(small(config.policy))
    return Terms(*scored(small(config.policy)), batch.policy.entropy(batch.params[1], batch.obs, batch.noise))


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_regulariser_is_one_program_for_every_weight_and_linear_in_it(name):
    regulariser = as_arrays(dataclasses.replace(REGULARISERS[name](), weight=0.5))
    run = jax.jit(lambda r, t: r(t))
    value = run(regulariser, terms(name))
    assert value.shape == () and value != 0.0
    assert_allclose(value, regulariser(terms(name)), rtol=1e-5)
    for weight in (0.0, 1.0):
        scaled = run(as_arrays(dataclasses.replace(regulariser, weight=weight)), terms(name))
        assert_allclose(scaled, 2 * weight * value, rtol=1e-5)
    assert run._cache_size() == 1
    assert_strong_float32(lambda r, t: r(t), regulariser, terms(name))


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_regulariser_mapped_over_seeds_is_what_it_is_of_each(name):
    regulariser = as_arrays(dataclasses.replace(REGULARISERS[name](), weight=0.5))
    assert_over_seeds_equals_a_loop(lambda r, t: r(t), regulariser, terms(name))


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_regulariser_has_finite_gradients_at_every_edge(name):
    regulariser, t = dataclasses.replace(REGULARISERS[name](), weight=0.5), terms(name)
    run = jax.jit(jax.grad(lambda new, t: regulariser(t._replace(new=new)), allow_int=True))
    for edge, change in EDGES.items():
        new, old, reference, _ = change(t.new, t.old, t.reference, jnp.zeros(BATCH))
        assert all(np.isfinite(x).all() for x in numbers(run(new, t._replace(old=old, reference=reference)))), edge


@pytest.mark.parametrize("name", POLICIES)
def test_every_regulariser_moves_every_family_that_has_what_it_needs(name):
    options = small(POLICIES[name]())
    new, old, reference = scored(options)
    entropy = acted(options).policy.entropy(acted(options).params[1], acted(options).obs, acted(options).noise)
    found = set()
    for term in (dataclasses.replace(r(), weight=0.5) for r in REGULARISERS.values() if options.offers(r.needs)):
        slope = jax.grad(lambda t, term=term: term(t), allow_int=True)(Terms(new, old, reference, entropy))
        moves = [leaf for leaf in numbers((slope.new, slope.entropy)) if np.any(leaf)]
        assert moves and all(np.isfinite(leaf).all() for leaf in moves), term
        found.add(term.name)
    own = {"entropy"} if name == "gaussian" else {"dipod", "knn", "velocity"}
    assert found == own | {"k2"} | ({"path"} if options.has_steps else set())


# --- policies


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_scores_its_own_actions_with_what_its_family_offers(name):
    options = small(POLICIES[name]())
    batch, found = acted(options), scored(options)[1]
    assert batch.action.shape == (BATCH, ACTION) and found.loss.shape[0] == BATCH
    assert found.weight.shape == found.loss.shape[1:] == found.known.shape[1:]
    assert_allclose(found.weight.sum(), 1.0, rtol=1e-5)
    assert found.known.all()
    assert_finite(found)
    for part in ("bound", "field", "steps"):  # a family may score by more than it offers to others
        assert (getattr(found, part) is not None) >= getattr(options, f"has_{part}"), part
    assert (batch.policy.field is batch.policy) == options.has_field
    entropy = batch.policy.entropy(batch.params[0], batch.obs, batch.noise)
    assert (entropy is not None) == options.has_entropy
    assert batch.policy.squash(batch.action).shape == (BATCH, ACTION)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_strong_float32_and_scores_alike_under_any_batch_shape_and_over_seeds(name):
    options = small(POLICIES[name]())
    batch = acted(options)
    policy, (acting, present, _) = batch.policy, batch.params
    assert_strong_float32(policy.sample, acting, batch.obs, batch.noise)
    assert_strong_float32(policy.init, jax.random.key(0))
    assert_strong_float32(policy.score, acting, batch.obs, batch.action, batch.evidence)
    # two seeds and a batch of two axes at once: observations (2, 4, O) of each, parameters of their own
    fold = lambda x: x.reshape(2, BATCH // 2, *x.shape[1:])
    twice = lambda x: jnp.stack([x, x])
    params = jax.tree.map(lambda a, b: jnp.stack([a, b]), acting, present)
    arguments = jax.tree.map(lambda x: twice(fold(x)), (batch.obs, batch.action, batch.evidence))
    mapped = jax.jit(jax.vmap(policy.score))(params, *arguments)
    for seed, expected in enumerate((scored(options)[1], scored(options)[0])):
        assert_allclose(mapped.loss[seed].reshape(expected.loss.shape), expected.loss, rtol=1e-3, atol=1e-4)
        if expected.bound is not None:
            assert_allclose(mapped.bound[seed].reshape(BATCH), expected.bound, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", POLICIES)
def test_every_option_of_a_policy_goes_through_the_file_and_back(name):
    objective = next(n for n, cls in OBJECTIVES.items() if cls.policy == name)
    config, _ = make_config("smoke", "BallInCup", objective, "native")
    assert config.policy.name == name and from_json(to_json(config)) == config


# --- advantages


def random_segment(reward=None):
    rng = np.random.default_rng(0)
    obs, next_obs = jnp.asarray(rng.standard_normal((2, 6, 5, OBS)), jnp.float32)
    ends = jnp.asarray(rng.random((2, 6, 5)) < 0.2)
    reward = jnp.asarray(rng.standard_normal((6, 5)), jnp.float32) if reward is None else jnp.full((6, 5), reward)
    return Segment(obs, next_obs, reward, ends[0], ends[1] & ~ends[0])


@pytest.mark.parametrize("name", ADVANTAGES)
def test_an_estimator_keeps_shape_and_type_and_is_the_same_compiled_and_over_seeds(name):
    estimator, segment = ADVANTAGES[name](), random_segment()
    value_fn = lambda obs: obs.sum(-1)

    def run(options, segment):
        return estimator(segment, value_fn(segment.obs), value_fn, discount=options[0], gae_lambda=options[1])

    options = (jnp.float32(0.9), jnp.float32(0.8))
    found = jax.jit(run)(options, segment)
    assert all(x.shape == (6, 5) for x in found)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, run((0.9, 0.8), segment))
    assert_strong_float32(run, options, segment)
    assert_over_seeds_equals_a_loop(run, options, segment)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_an_estimator_finds_no_advantage_where_every_reward_is_as_the_critic_expects(name):
    segment = random_segment(reward=1.0)
    value_fn = lambda obs: jnp.full(obs.shape[:-1], 10.0)  # 1 / (1 - .9), where nothing ends
    never = jnp.zeros((6, 5), bool)
    segment = segment._replace(terminated=never, truncated=never)
    found = ADVANTAGES[name]()(segment, value_fn(segment.obs), value_fn, discount=0.9, gae_lambda=0.8)
    assert_allclose(found.advantage, np.zeros((6, 5)), atol=1e-5)
    assert_allclose(found.value_target, np.full((6, 5), 10.0), rtol=1e-5)
    assert_array_equal(standardise(jnp.full((6, 5), 2.0)), 0.0)
