"""Bounds over V^L against enumeration of all L! orders; both models of the conditionals."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import any_order
from dipod_jax.toys import bounds
from dipod_jax.toys.models import MODELS, ConditionalTable, TinyTransformer
from dipod_jax.toys.space import make_space, self_distilled_table, token_log_probs

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


@pytest.mark.slow
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
    ours = any_order.elbo(token_log_probs(jnp.asarray(table), space))[row]
    np.testing.assert_allclose(ours, integral, atol=1e-12)


def test_order_weights_count_the_orders_that_reveal_a_position_after_a_subset():
    space = make_space(4, 2)
    for subset, position in itertools.product(range(16), range(4)):
        before = {i for i in range(4) if subset >> i & 1}
        count = sum(set(o[: o.index(position)]) == before for o in itertools.permutations(range(4)))
        assert space.subsets.order_weights[subset, position] == pytest.approx(count / math.factorial(4), abs=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("length,vocab", SIZES)
def test_perfect_self_distillation_makes_every_bound_tight_and_moves_no_probability(length, vocab):
    space = make_space(length, vocab)
    drifted = exact_bounds(random_table(length, vocab), length, vocab, "renyi", 2.0)
    assert jnp.max(drifted.lower_gap) > 0.1
    logits = self_distilled_table(jnp.exp(drifted.log_prob), space)
    distilled = exact_bounds(jax.nn.log_softmax(logits), length, vocab, "renyi", 2.0)
    np.testing.assert_allclose(distilled.log_prob, drifted.log_prob, atol=1e-12)
    np.testing.assert_allclose(distilled.lower_gap, 0.0, atol=1e-12)
    np.testing.assert_allclose(distilled.upper_gap, 0.0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_both_models_start_uniform_and_tight(name):
    model = MODELS[name](length=3, vocab_size=2)
    table = jax.jit(model.init_with_output)(jax.random.key(0))[0]
    assert table.dtype == jnp.float64
    result = exact_bounds(table, 3, 2, "spg", 1.5)
    np.testing.assert_allclose(result.log_prob, math.log(1 / 8), atol=1e-12)
    np.testing.assert_allclose(result.lower_gap, 0.0, atol=1e-12)


@pytest.mark.slow
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
