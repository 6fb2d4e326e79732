"""Monte-Carlo bounds: means over many draws against the exact sums, and the biases where there are some."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import any_order, gauss_legendre
from dipod_jax.bounds.mask_draws import MaskDraws
from dipod_jax.toys.bounds import estimated_bounds, mask_draws
from dipod_jax.toys.models import ConditionalTable
from dipod_jax.toys.options import ESTIMATORS
from dipod_jax.toys.space import make_space, token_log_probs

LENGTH, VOCAB = 4, 2
SPACE = make_space(LENGTH, VOCAB)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def log_probs():
    model = ConditionalTable(LENGTH, VOCAB, init_scale=1.5)
    return jax.jit(lambda key: token_log_probs(model.init_with_output(key)[0], SPACE))(jax.random.key(0))


def elbo_statistics(log_probs, estimator, num_draws, repeats=4000):
    """Mean and its standard error over repeated estimates, each (X,)."""
    keys = jax.random.split(jax.random.key(1), repeats)

    @jax.jit
    @jax.vmap
    def estimate(key):
        return estimated_bounds(log_probs, *mask_draws(key, estimator, num_draws, SPACE), 1.5).elbo

    estimates = estimate(keys)
    return estimates.mean(axis=0), estimates.std(axis=0) / repeats**0.5


def hidden_of(estimator, num_draws):
    """Masks (500, K, L), as an array of bool."""
    keys = jax.random.split(jax.random.key(0), 500)
    draw = jax.jit(jax.vmap(lambda key: mask_draws(key, estimator, num_draws, SPACE)[0].hidden[0]))
    return np.asarray(draw(keys))


# GDPO's nodes with independent masks integrate a polynomial of degree L - 1 = 3 exactly from 2 nodes on.
@pytest.mark.parametrize(
    "estimator,num_draws", [("uniform", 1), ("uniform", 4), ("antithetic", 2), ("antithetic", 4), ("gdpo-bernoulli", 2)]
)
def test_the_estimate_is_unbiased(log_probs, estimator, num_draws):
    mean, error = elbo_statistics(log_probs, estimator, num_draws)
    np.testing.assert_array_less(jnp.abs(mean - any_order.elbo(log_probs)), 5 * error)


@pytest.mark.slow
@pytest.mark.parametrize("num_draws", [1, 2, 3, 4])
def test_gdpo_has_the_mean_of_the_mask_counts_that_its_nodes_reach(log_probs, num_draws):
    """Node n sees only contexts with floor(t_n L) masked tokens: their mean, times w_n / t_n, summed over the nodes."""
    nodes, weights = gauss_legendre(num_draws)
    num_masked = SPACE.subsets.masked.sum(axis=-1)
    expected = 0.0
    for t, w in zip(nodes, weights, strict=True):
        chosen = num_masked == int(t * LENGTH + 1e-9)
        expected = expected + w / t * log_probs[:, chosen].sum(axis=-1).mean(axis=-1)
    mean, error = elbo_statistics(log_probs, "gdpo", num_draws)
    np.testing.assert_array_less(jnp.abs(mean - expected), 5 * error + 1e-12)
    assert jnp.max(jnp.abs(expected - any_order.elbo(log_probs))) > 0.05, "the bias is real at this length"


def test_gdpo_with_its_two_default_nodes_never_masks_a_whole_sequence_of_4():
    counts = hidden_of("gdpo", 2).sum(axis=-1)
    np.testing.assert_array_equal(np.unique(counts[:, 0]), [0])  # floor(.2113 x 4)
    np.testing.assert_array_equal(np.unique(counts[:, 1]), [3])  # floor(.7887 x 4)


def test_antithetic_partners_mask_c_and_l_plus_1_minus_c_tokens_from_opposite_ends():
    first, second = hidden_of("antithetic", 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(first.sum(axis=-1) + second.sum(axis=-1), LENGTH + 1)
    np.testing.assert_array_equal((first | second).all(axis=-1), True)  # together they see every token
    np.testing.assert_array_equal((first & second).sum(axis=-1), 1)


def test_antithetic_pairs_vary_less_than_independent_ones(log_probs):
    errors = {e: float(jnp.mean(elbo_statistics(log_probs, e, 2)[1])) for e in ("uniform", "antithetic")}
    assert errors["antithetic"] < 0.97 * errors["uniform"]  # a modest gain: measured 0.94


def test_the_quadrature_integrates_polynomials_of_degree_2n_minus_1():
    for n in range(1, 6):
        nodes, weights = gauss_legendre(n)
        for degree in range(2 * n):
            assert weights @ nodes**degree == pytest.approx(1 / (degree + 1), abs=1e-14)
    np.testing.assert_allclose(gauss_legendre(2)[0], [0.2113248654, 0.7886751346], atol=1e-10)


@pytest.mark.slow
def test_draws_that_cover_every_subset_in_proportion_give_the_exact_bounds(log_probs):
    """Every subset but the full one, weighted as the orders weigh it: sum_k weight_k 1[i masked] is 1 for each i."""
    masked = SPACE.subsets.masked[:-1]  # (K, L)
    weight = SPACE.subsets.order_weights[:-1].max(axis=-1)  # equal over the masked positions
    shape = (VOCAB**LENGTH, *masked.shape)
    coefficient = jnp.broadcast_to(masked * weight[:, None] * len(masked), shape)
    draws = MaskDraws(jnp.broadcast_to(masked, shape), coefficient)
    for order in (1.0, 1.5, 3.0):
        ours = jax.jit(estimated_bounds)(log_probs, draws, jnp.full(len(masked), 1 / len(masked)), order)
        np.testing.assert_allclose(ours.log_prob, any_order.log_order_mean(log_probs), atol=1e-12)
        np.testing.assert_allclose(ours.elbo, any_order.elbo(log_probs), atol=1e-12)
        np.testing.assert_allclose(ours.eubo, any_order.eubo_per_token(log_probs, order), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e != "exact"])
def test_estimated_bounds_have_finite_gradients_although_some_tokens_are_never_masked(log_probs, estimator):
    draws, weight = mask_draws(jax.random.key(2), estimator, 2, SPACE)
    for name in ("elbo", "eubo"):
        function = lambda z, name=name: jnp.sum(getattr(estimated_bounds(z, draws, weight, 1.5), name))
        assert bool(jnp.all(jnp.isfinite(jax.jit(jax.grad(function))(log_probs))))


@pytest.mark.slow
def test_the_eubo_of_a_single_draw_has_the_gradient_of_its_unweighted_log_probabilities(log_probs):
    draws, weight = mask_draws(jax.random.key(2), "uniform", 1, SPACE)
    ours = jax.grad(lambda z: jnp.sum(estimated_bounds(z, draws, weight, 1.5).eubo))(log_probs)
    np.testing.assert_allclose(ours.sum(axis=1), np.asarray(draws.hidden[:, 0]).astype(float), atol=1e-12)


def test_an_odd_number_of_antithetic_draws_is_refused():
    with pytest.raises(ValueError, match="even, got 3"):
        mask_draws(jax.random.key(0), "antithetic", 3, SPACE)
    with pytest.raises(ValueError, match="'sobol' is not one of"):
        mask_draws(jax.random.key(0), "sobol", 2, SPACE)
