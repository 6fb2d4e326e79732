"""Bounds over V^L against enumeration of all L! orders, and training against the two-token toy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.tinydiffusion import bounds, distillation, training
from dipod_jax.tinydiffusion.model import MODELS, ConditionalTable, TinyTransformer
from dipod_jax.tinydiffusion.space import make_space, training_bytes
from dipod_jax.twotoken.options import METHODS, PAPER_METHODS
from dipod_jax.twotoken.training import train as train_twotoken

SIZES = [(2, 2), (3, 3), (4, 2)]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_table(length, vocab, scale=1.5, seed=0):
    model = ConditionalTable(length, vocab, init_scale=scale)
    return np.asarray(model.apply(model.init(jax.random.key(seed))))


def exact_bounds(table, length, vocab, eubo, order):
    """Compiled as one program: a hundred small ones, one an operation, are what would take the time."""
    space = make_space(length, vocab)
    return jax.jit(lambda t: bounds.all_bounds(t, space, eubo, order))(jnp.asarray(table))


def context_number(tokens, vocab):
    """Base V + 1, the first position least significant, a masked position 0."""
    return sum((0 if token is None else token + 1) * (vocab + 1) ** i for i, token in enumerate(tokens))


def path_steps(table, sequence, order, vocab):
    """Log-probability of each token in the order in which it is revealed."""
    context, steps = [None] * len(sequence), {}
    for i in order:
        steps[i] = table[context_number(context, vocab), i, sequence[i]]
        context[i] = sequence[i]
    return steps


def enumerated(table, length, vocab):
    """For every sequence and order, the L log-probabilities by position: (X, L!, L)."""
    return np.array(
        [
            [
                [steps[i] for i in range(length)]
                for steps in (path_steps(table, x, o, vocab) for o in itertools.permutations(range(length)))
            ]
            for x in itertools.product(range(vocab), repeat=length)
        ]
    )


@pytest.mark.parametrize("length,vocab", SIZES)
def test_every_bound_equals_the_enumeration_of_all_orders(length, vocab):
    table = random_table(length, vocab)
    steps = enumerated(table, length, vocab)
    log_w = steps.sum(axis=-1)  # (X, L!)
    for order in (1.0, 1.5, 4.0):
        renyi = exact_bounds(table, length, vocab, "renyi", order)
        np.testing.assert_allclose(renyi.log_prob, np.log(np.exp(log_w).mean(axis=-1)), atol=1e-12)
        np.testing.assert_allclose(renyi.elbo, log_w.mean(axis=-1), atol=1e-12)
        np.testing.assert_allclose(renyi.eubo, np.log(np.exp(order * log_w).mean(axis=-1)) / order, atol=1e-12)
        spg = exact_bounds(table, length, vocab, "spg", order).eubo
        np.testing.assert_allclose(spg, (np.log(np.exp(order * steps).mean(axis=1)) / order).sum(axis=-1), atol=1e-12)


@pytest.mark.parametrize("length,vocab", [*SIZES, (6, 2), (4, 4)])
def test_probabilities_sum_to_one_and_the_bounds_enclose_the_likelihood(length, vocab):
    result = exact_bounds(random_table(length, vocab), length, vocab, "spg", float(length))
    np.testing.assert_allclose(jnp.sum(jnp.exp(result.log_prob)), 1.0, atol=1e-12)
    assert jnp.min(result.lower_gap) > 0
    assert jnp.min(result.upper_gap) > 0, "SPG's EUBO is an upper bound at order L"


def test_the_spg_eubo_of_order_1_5_is_under_some_likelihood_at_length_3():
    gaps = [exact_bounds(random_table(3, 2, seed=seed), 3, 2, "spg", 1.5).upper_gap for seed in range(5)]
    assert np.min(gaps) < -0.01


def test_the_elbo_equals_the_time_integral_over_independent_masks():
    """int_0^1 (1/t) E_mask[sum over masked of log p] dt; the integrand is a polynomial of degree L - 1 in t."""
    length, vocab = 3, 2
    table, space = random_table(length, vocab), make_space(length, vocab)
    nodes, weights = np.polynomial.legendre.leggauss(length)
    sequence = (1, 0, 1)
    integral = 0.0
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        for masked in itertools.product((False, True), repeat=length):
            context = context_number([None if m else x for m, x in zip(masked, sequence, strict=True)], vocab)
            probability = t ** sum(masked) * (1 - t) ** (length - sum(masked))
            log_p = sum(table[context, i, sequence[i]] for i in range(length) if masked[i])
            integral += w * probability * log_p / t
    row = list(itertools.product(range(vocab), repeat=length)).index(sequence)
    ours = bounds.elbo(bounds.token_log_probs(jnp.asarray(table), space), space)[row]
    np.testing.assert_allclose(ours, integral, atol=1e-12)


def test_order_weights_count_the_orders_that_reveal_a_position_after_a_subset():
    space = make_space(4, 2)
    for subset, position in itertools.product(range(16), range(4)):
        before = {i for i in range(4) if subset >> i & 1}
        count = sum(set(o[: o.index(position)]) == before for o in itertools.permutations(range(4)))
        assert space.order_weights[subset, position] == pytest.approx(count / math.factorial(4), abs=1e-15)


@pytest.mark.parametrize("length,vocab", SIZES)
def test_perfect_self_distillation_makes_every_bound_tight_and_moves_no_probability(length, vocab):
    space = make_space(length, vocab)
    drifted = exact_bounds(random_table(length, vocab), length, vocab, "renyi", 2.0)
    assert jnp.max(drifted.lower_gap) > 0.1
    logits = bounds.self_distilled_table(jnp.exp(drifted.log_prob), space)
    distilled = exact_bounds(jax.nn.log_softmax(logits), length, vocab, "renyi", 2.0)
    np.testing.assert_allclose(distilled.log_prob, drifted.log_prob, atol=1e-12)
    np.testing.assert_allclose(distilled.lower_gap, 0.0, atol=1e-12)
    np.testing.assert_allclose(distilled.upper_gap, 0.0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_both_models_start_uniform_and_tight(name):
    model = MODELS[name](length=3, vocab_size=2)
    table = jax.jit(model.init_with_output)(jax.random.key(0))[0]
    assert table.dtype == jnp.float64
    result = exact_bounds(table, 3, 2, "spg", 1.5)
    np.testing.assert_allclose(result.log_prob, math.log(1 / 8), atol=1e-12)
    np.testing.assert_allclose(result.lower_gap, 0.0, atol=1e-12)


def test_the_transformer_numbers_contexts_as_the_table_does_and_reads_the_revealed_tokens():
    """Freed from its zero head, the logits of a position depend on another position's revealed token."""
    model = TinyTransformer(length=2, vocab_size=2)
    params = model.init(jax.random.key(0))
    head = params["params"]["Dense_4"]
    head["kernel"] = jax.random.normal(jax.random.key(1), head["kernel"].shape)
    table = model.apply(params)
    differing = {
        (a, b): float(jnp.abs(table[context_number(a, 2), 0] - table[context_number(b, 2), 0]).max())
        for a, b in itertools.combinations([(None, None), (None, 0), (None, 1)], 2)
    }
    assert min(differing.values()) > 1e-4
    np.testing.assert_allclose(jnp.exp(table).sum(axis=-1), 1.0, atol=1e-12)


def settings(length=2, vocab=2, **changes):
    base = training.Settings(ConditionalTable(length, vocab), length, vocab, steps=60, record_every=20)
    return base._replace(**changes)


REWARD = np.random.default_rng(3).uniform(0.7, 1.0, 8)


@pytest.mark.parametrize("eubo", ["spg", "renyi"])
def test_two_binary_tokens_are_the_two_token_toy(eubo):
    """Half the step on a pair of logits is a whole step on their difference."""
    ours = training.train(
        settings(steps=300, record_every=300, learning_rate=0.25, eubo=eubo),
        training.make_runs(METHODS, 0.2, [0.8, 1.0, 0.7, 1.0], 0),
    )
    toy = train_twotoken(METHODS, [0.0], steps=300, learning_rate=0.5, eubo=eubo)
    for name in ("mean_gap", "max_gap", "expected_reward", "gradient_cosine"):
        np.testing.assert_allclose(getattr(ours, name)[:, -1], getattr(toy, name)[:, 0, -1], atol=1e-12)


def test_one_update_moves_the_expected_reward_by_the_gradient_squared():
    """J(theta + eta g) - J(theta) = eta |g|^2 + O(eta^2) for the exact policy gradient, g by finite differences."""
    space, model, step = make_space(3, 2), ConditionalTable(3, 2), 1e-5
    reward = np.random.default_rng(0).uniform(size=8)

    @jax.jit
    @jax.vmap
    def expected_reward(logits):
        return jnp.exp(bounds.all_bounds(jax.nn.log_softmax(logits), space, "spg", 1.5).log_prob) @ reward

    shifts = np.eye(27 * 3 * 2).reshape(-1, 27, 3, 2) * step  # around all logits 0, the start
    gradient = np.asarray(expected_reward(shifts) - expected_reward(-shifts)) / (2 * step)
    curves = training.train(
        training.Settings(model, 3, 2, steps=1, record_every=1, learning_rate=1e-6),
        training.make_runs(["policy-gradient"], 0.0, reward, 0),
    )
    gained = float(np.diff(curves.expected_reward[0])[0])
    assert gained / 1e-6 == pytest.approx(gradient @ gradient, rel=1e-4)


def test_algorithm_1_that_never_comes_to_distil_is_algorithm_2_without_regulariser():
    """The start is tight, so distillation has converged at once; n updates then outlast the run."""
    program = settings(3, steps=40, learning_rate=1.0)
    free = training.train(program, training.make_runs(["fpo"], 0.0, REWARD, 0))
    interleaved = training.train_interleaved(program, training.make_runs(["fpo"], 0.0, REWARD, 0, 10**6))
    np.testing.assert_allclose(interleaved.mean_gap, free.mean_gap, atol=1e-14)
    assert np.all(interleaved.distilling == 0)


def test_algorithm_1_keeps_the_gap_below_what_its_tolerance_and_n_allow():
    program = settings(3, steps=1500, record_every=1, learning_rate=1.0, tolerance=1e-3)
    runs = training.make_runs(["fpo", "fpo"], 0.0, REWARD, 0, np.array([1, 10**6]))
    curves = training.train_interleaved(program, runs)
    # E_ref[log pi_ref - ELBO] < 1e-3 before each single update; the update itself may add a little.
    assert np.max(curves.mean_gap[0]) < 2e-3 < np.max(curves.mean_gap[1])
    assert 0.1 < np.mean(curves.distilling[0]) < 1.0
    assert np.all(np.diff(curves.expected_reward[0]) > -1e-3)


@pytest.mark.parametrize("rule", ["elbo", "monotone"])
def test_self_distillation_tightens_both_bounds_and_keeps_the_policy(rule):
    program = settings(3, steps=1000, record_every=500, learning_rate=1.0, eubo="renyi", eubo_order=2.0)
    reward = np.random.default_rng(1).uniform(0.7, 1.0, 8)
    curves = distillation.drift_and_distil(program, training.make_runs(["fpo"], 0.0, reward, 0), 3000, rule)
    loss, upper, kl = curves.loss[0], curves.eubo_excess[0], curves.kl[0]
    assert loss[0] > 0.01 and loss[-1] < 0.05 * loss[0]
    assert kl[0] == pytest.approx(0.0, abs=1e-14) and kl[-1] <= loss[-1] + 1e-12
    assert abs(curves.expected_reward[0, -1] - curves.expected_reward[0, 0]) < 5e-3
    assert np.all(np.diff(loss) < 1e-9)
    if rule == "monotone":
        assert np.max(np.diff(upper)) < 1e-5


def test_the_projection_takes_out_exactly_what_rises_and_nothing_else():
    rise = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([2.0])}
    up = {"a": jnp.array([3.0, 5.0]), "b": jnp.array([1.0])}  # inner product 5, of which 5 = |rise|^2: share 1
    kept = training.without_rise(up, rise)
    np.testing.assert_allclose(kept["a"], [2.0, 5.0])
    np.testing.assert_allclose(kept["b"], [-1.0])
    down = jax.tree.map(jnp.negative, up)
    jax.tree.map(np.testing.assert_array_equal, training.without_rise(down, rise), down)


def test_the_monotone_constraint_keeps_the_upper_gap_from_rising():
    runs = training.make_runs(["fpo"], 0.0, REWARD, 0)
    program = settings(3, steps=600, record_every=20, learning_rate=0.5, eubo="renyi", eubo_order=2.0)
    free, held = (training.train(program._replace(monotone=m), runs).upper_gap[0] for m in (False, True))
    assert np.max(free) > 0.01
    assert np.max(held) < 0.1 * np.max(free)


def test_unknown_names_are_refused_by_name():
    with pytest.raises(ValueError, match="'ppo' is unknown"):
        training.make_runs(["ppo"], 0.0, REWARD, 0)
    with pytest.raises(ValueError, match="'up' is unknown"):
        distillation.drift_and_distil(settings(), training.make_runs(["fpo"], 0.0, REWARD[:4], 0), 1, "up")


def test_the_memory_estimate_grows_with_every_factor_and_is_near_the_size_of_the_arrays():
    assert training_bytes(6, 4, 1) < 2**28 < training_bytes(9, 4, 1)
    assert training_bytes(4, 2, 10) > 9 * training_bytes(4, 2, 1)


def test_all_paper_methods_share_one_program():
    curves = training.train(settings(3, steps=40), training.make_runs(PAPER_METHODS, 0.2, REWARD, 0))
    assert curves.mean_gap.shape == (len(PAPER_METHODS), 3)
    assert np.all(curves.mean_gap[:, 0] == pytest.approx(0.0, abs=1e-14))
