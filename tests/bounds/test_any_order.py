"""The any-order bound: dynamic programming and draws against every order and every mask, one at a time."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import any_order
from dipod_jax.bounds.mask_draws import (
    MASK_PLACEMENTS,
    draw_losses,
    estimated_eubo_per_token,
    mask_draw_weights,
    sample_mask_draws,
)

VOCAB = 3
compiled_mask_draws = jax.jit(sample_mask_draws, static_argnames=("num_draws", "placement", "prompt_masking"))


def random_model(length: int, seed: int) -> dict[tuple[int, ...], np.ndarray]:
    """Every context (0 masked, 1..V revealed) to log-conditionals (L, V), in float64."""
    rng = np.random.default_rng(seed)
    model = {}
    for context in itertools.product(range(VOCAB + 1), repeat=length):
        logits = 2.0 * rng.normal(size=(length, VOCAB))
        model[context] = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return model


def token_table(model, tokens) -> np.ndarray:
    """(S, L) log p(x_i | x_S) of one sequence, 0 inside S."""
    length = len(tokens)
    table = np.zeros((2**length, length))
    for s in range(2**length):
        context = tuple(t if s >> i & 1 else 0 for i, t in enumerate(tokens))
        for i in range(length):
            if not s >> i & 1:
                table[s, i] = model[context][i, tokens[i] - 1]
    return table


def log_path_probs(model, tokens) -> np.ndarray:
    """(L!,) log w_order(x), one order after another."""
    paths = []
    for order in itertools.permutations(range(len(tokens))):
        context, total = [0] * len(tokens), 0.0
        for i in order:
            total += model[tuple(context)][i, tokens[i] - 1]
            context[i] = tokens[i]
        paths.append(total)
    return np.array(paths)


@pytest.fixture(scope="module", params=[pytest.param(3, marks=pytest.mark.slow), 4])
def enumerated(request):
    length = request.param
    model = random_model(length, seed=length)
    sequences = list(itertools.product(range(1, VOCAB + 1), repeat=length))
    with jax.enable_x64(True):
        table = jnp.asarray(np.stack([token_table(model, x) for x in sequences]))
    return table, np.stack([log_path_probs(model, x) for x in sequences])


@pytest.mark.slow
@pytest.mark.parametrize("order", [0.5, 1.0, 2.0])
def test_power_mean_over_orders_equals_enumeration(enumerated, order):
    table, paths = enumerated
    with jax.enable_x64(True):
        found = any_order.log_order_mean(table, order)
    np.testing.assert_allclose(found, np.log(np.exp(order * paths).mean(-1)) / order, rtol=1e-10)


@pytest.mark.slow
def test_likelihood_sums_to_1_over_all_sequences(enumerated):
    with jax.enable_x64(True):
        np.testing.assert_allclose(jnp.exp(any_order.log_order_mean(enumerated[0])).sum(), 1.0, rtol=1e-10)


def test_elbo_is_the_mean_log_path_probability(enumerated):
    table, paths = enumerated
    with jax.enable_x64(True):
        np.testing.assert_allclose(any_order.elbo(table), paths.mean(-1), rtol=1e-10)


@pytest.mark.parametrize("order", [1.5, 4.0])
def test_eubo_per_token_equals_a_mean_over_orders_of_each_token(enumerated, order):
    table, _ = enumerated
    length = table.shape[-1]
    total = np.zeros(len(table))
    for i in range(length):
        powers = []
        for permutation in itertools.permutations(range(length)):
            before = sum(1 << j for j in permutation[: permutation.index(i)])
            powers.append(np.exp(order * np.asarray(table)[:, before, i]))
        total += np.log(np.mean(powers, axis=0)) / order
    with jax.enable_x64(True):
        np.testing.assert_allclose(any_order.eubo_per_token(table, order), total, rtol=1e-10)


def test_bounds_enclose_the_likelihood_where_theory_says_so(enumerated):
    table, _ = enumerated
    length = table.shape[-1]
    with jax.enable_x64(True):
        order_mean = jax.jit(any_order.log_order_mean)
        log_prob = order_mean(table, 1.0)
        assert (any_order.elbo(table) < log_prob).all()
        assert (order_mean(table, 2.0) > log_prob).all()
        assert (any_order.eubo_per_token(table, float(length)) > log_prob).all()


def test_all_bounds_agree_where_a_token_does_not_depend_on_the_context():
    with jax.enable_x64(True):
        log_prob = jnp.log(jnp.array([0.5, 0.25, 0.125]))
        table = jnp.where(any_order.make_subsets(3).masked, log_prob, 0.0)
        bounds = any_order.log_order_mean, any_order.elbo, lambda t: any_order.eubo_per_token(t, 1.5)
        for bound in jax.jit(lambda t: [of(t) for of in bounds])(table):
            np.testing.assert_allclose(bound, np.log(1 / 64), rtol=1e-12)


@pytest.mark.slow
def test_a_blank_that_is_none_changes_nothing(enumerated):
    table, _ = enumerated
    length = table.shape[-1]
    padded = np.zeros((len(table), 2 ** (length + 1), length + 1))
    padded[:, : 2**length, :length] = table
    padded[:, 2**length :, :length] = table  # whether the blank that is none is revealed or not
    with jax.enable_x64(True):
        for bound in (any_order.log_order_mean, any_order.elbo, lambda t: any_order.eubo_per_token(t, 1.5)):
            np.testing.assert_allclose(bound(jnp.asarray(padded)), bound(table), rtol=1e-10)


def test_contexts_of_the_subsets_reveal_bits_in_reading_order():
    tokens, blank = jnp.array([5, 6, 7, 8]), jnp.array([False, True, False, True])
    contexts = any_order.subset_contexts(tokens, blank, 2, mask=0)
    np.testing.assert_array_equal(contexts, [[5, 0, 7, 0], [5, 6, 7, 0], [5, 0, 7, 8], [5, 6, 7, 8]])
    padded = any_order.subset_contexts(tokens, blank, 3, mask=0)
    np.testing.assert_array_equal(padded, np.concatenate([contexts, contexts]))


def test_more_blanks_than_the_tables_hold_are_refused():
    with pytest.raises(ValueError, match="13 blanks"):
        any_order.make_subsets(13)


def expected_losses(table: jax.Array, placement: str, num_draws: int, samples: int = 40_000) -> tuple[float, float]:
    """Mean and standard error of the estimated negative bound of one sequence whose last position is given."""
    length = table.shape[-1]
    blank = np.broadcast_to(np.arange(length + 1) < length, (samples, length + 1))
    draws = compiled_mask_draws(jax.random.key(1), blank, num_draws, placement=placement)
    hidden = np.asarray(draws.hidden)
    assert not hidden[..., -1].any()
    revealed = np.where(hidden[..., :-1], 0, 1 << np.arange(length)).sum(-1)  # (B, N)
    log_prob = np.pad(np.asarray(table)[revealed], ((0, 0), (0, 0), (0, 1)))
    loss = np.asarray(draw_losses(log_prob, draws)) @ np.asarray(mask_draw_weights(placement, num_draws))
    return float(loss.mean()), float(loss.std() / math.sqrt(samples))


@pytest.mark.slow
@pytest.mark.parametrize("num_draws", [2, 4])
@pytest.mark.parametrize("placement", ["uniform", "stratified", "antithetic", "coupled", "quadrature"])
def test_draws_estimate_the_exact_elbo_without_bias(enumerated, placement, num_draws):
    table = enumerated[0][7].astype(jnp.float32)
    mean, error = expected_losses(table, placement, num_draws)
    assert abs(mean + float(any_order.elbo(table))) < 4.5 * error


def test_released_draws_have_the_bias_that_enumeration_of_their_counts_gives(enumerated):
    table = np.asarray(enumerated[0][7])
    length = table.shape[-1]
    masked = any_order.make_subsets(length).masked
    size = masked.sum(-1)
    of_count = [(-(table * masked).sum(-1))[size == m].mean() for m in range(length + 1)]
    floor = np.mean([of_count[m] * length / max(m, 1) for m in range(length)])
    mean, error = expected_losses(jnp.asarray(table, jnp.float32), "floor", 2)
    assert abs(mean - floor) < 4.5 * error
    nodes = (0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12))
    gdpo = np.mean([of_count[math.floor(t * length)] / t for t in nodes])
    mean, error = expected_losses(jnp.asarray(table, jnp.float32), "gdpo", 2)
    assert abs(mean - gdpo) < 4.5 * error
    mean, _ = expected_losses(jnp.asarray(table, jnp.float32), "one-step", 1, samples=2)
    assert mean == pytest.approx(of_count[length], rel=1e-5)


def test_floor_draws_never_mask_everything_and_uniform_ones_do_one_time_in_L():
    blank = np.ones((4000, 4), bool)
    all_masked = lambda placement: float(
        np.asarray(compiled_mask_draws(jax.random.key(0), blank, 1, placement=placement).hidden).all(-1).mean()
    )
    assert all_masked("floor") == 0.0
    assert abs(all_masked("uniform") - 0.25) < 0.03


def test_coupled_draws_score_each_blank_exactly_once_in_a_pair():
    blank = np.array([True, True, False, True, True, True])
    draws = compiled_mask_draws(jax.random.key(0), np.broadcast_to(blank, (50, 6)), 4, placement="coupled")
    draws = jax.tree.map(np.asarray, draws)
    hidden = draws.hidden.reshape(50, 2, 2, 6)  # (half of a pair, pair)
    np.testing.assert_array_equal(hidden.sum(1), np.broadcast_to(blank.astype(int), (50, 2, 6)))
    np.testing.assert_array_equal(draws.coefficient > 0, draws.hidden)


def test_coupled_grpo_draws_are_half_one_step_and_half_a_mask_and_its_complement():
    blank = np.broadcast_to(np.arange(6) < 5, (2000, 6))
    draws = compiled_mask_draws(jax.random.key(0), blank, 3, placement="coupled-grpo")
    np.testing.assert_array_equal(draws.hidden[:, 0], blank)
    np.testing.assert_array_equal(draws.hidden[:, 1] ^ draws.hidden[:, 2], blank)
    draws = jax.tree.map(np.asarray, draws)
    factor = draws.coefficient.max(-1)
    np.testing.assert_allclose(factor[:, 0], 1.5)
    both = draws.hidden[:, 1:].any(-1).all(-1)
    shares = 1.5 / factor[both, 1:]
    np.testing.assert_allclose(shares.sum(-1), 1.0, rtol=1e-5)  # r + (1 - r)
    assert shares.min() >= 0.2 and shares.max() <= 0.8


def test_counts_follow_each_sequences_own_number_of_blanks():
    blank = np.array([[True] * 2 + [False] * 6, [True] * 8])
    draws = compiled_mask_draws(jax.random.key(0), blank, 500, placement="uniform")
    draws = jax.tree.map(np.asarray, draws)
    count = draws.hidden.sum(-1)
    assert set(np.asarray(count[0]).tolist()) == {1, 2}
    assert set(np.asarray(count[1]).tolist()) == set(range(1, 9))
    np.testing.assert_allclose(draws.coefficient.sum(-1), [[2] * 500, [8] * 500], rtol=1e-6)


def test_prompt_masking_hides_given_tokens_and_scores_none_of_them():
    blank = np.broadcast_to(np.arange(8) < 4, (2000, 8))
    draws = compiled_mask_draws(jax.random.key(0), blank, 1, placement="one-step", prompt_masking=0.15)
    draws = jax.tree.map(np.asarray, draws)
    assert draws.hidden[..., :4].all()
    assert abs(float(draws.hidden[..., 4:].mean()) - 0.15) < 0.02
    assert (draws.coefficient == blank[:, None]).all()


@pytest.mark.slow
def test_every_placement_has_weights_that_sum_to_1_and_repeats_with_its_key():
    blank = jnp.ones((3, 5), bool)
    for placement in MASK_PLACEMENTS:
        count = 3 if placement == "coupled-grpo" else 4
        first, second = (compiled_mask_draws(jax.random.key(5), blank, count, placement=placement) for _ in range(2))
        assert float(mask_draw_weights(placement, count).sum()) == pytest.approx(1.0)
        jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    "placement, message",
    [("coupled", "in pairs"), ("antithetic", "in pairs"), ("coupled-grpo", "are three"), ("x", "not one")],
)
def test_draws_that_cannot_be_are_refused(placement, message):
    with pytest.raises(ValueError, match=message):
        sample_mask_draws(jax.random.key(0), jnp.ones((1, 4), bool), 5, placement=placement)


@pytest.mark.slow
def test_estimated_eubo_tends_to_the_exact_one_and_has_finite_gradients(enumerated):
    table = enumerated[0][7].astype(jnp.float32)
    length = table.shape[-1]
    blank = jnp.ones((length,), bool)
    draws = sample_mask_draws(jax.random.key(2), blank, 20_000, placement="uniform")
    revealed = jnp.sum(jnp.where(draws.hidden, 0, 1 << jnp.arange(length)), -1)
    found = estimated_eubo_per_token(table[revealed], draws.coefficient, jnp.full(20_000, 1 / 20_000), 1.5)
    np.testing.assert_allclose(found, any_order.eubo_per_token(table, 1.5), atol=0.03)
    single = sample_mask_draws(jax.random.key(3), blank, 1, placement="uniform")
    estimate = lambda x: estimated_eubo_per_token(x, single.coefficient, jnp.ones(1), 1.5)
    gradient = jax.grad(estimate)(jnp.full((1, length), -80.0))
    assert jnp.isfinite(gradient).all()
    assert float(gradient.sum()) == pytest.approx(float(single.hidden.sum()))
