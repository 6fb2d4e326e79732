"""Monte-Carlo bounds: means over many draws against the exact sums, and the biases where there are some."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import gauss_legendre
from dipod_jax.tinydiffusion import bounds
from dipod_jax.tinydiffusion.estimators import (
    ESTIMATORS,
    Draws,
    estimated_elbo,
    estimated_eubo,
    sample_draws,
)
from dipod_jax.tinydiffusion.model import ConditionalTable
from dipod_jax.tinydiffusion.space import make_space

LENGTH, VOCAB = 4, 2
SPACE = make_space(LENGTH, VOCAB)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def log_probs():
    model = ConditionalTable(LENGTH, VOCAB, init_scale=1.5)
    return jax.jit(lambda key: bounds.token_log_probs(model.init_with_output(key)[0], SPACE))(jax.random.key(0))


def elbo_statistics(log_probs, estimator, num_draws, repeats=4000):
    """Mean and its standard error over repeated estimates, each (X,)."""
    keys = jax.random.split(jax.random.key(1), repeats)

    @jax.jit
    @jax.vmap
    def estimate(key):
        return estimated_elbo(log_probs, sample_draws(key, estimator, num_draws, VOCAB**LENGTH, LENGTH))

    estimates = estimate(keys)
    return estimates.mean(axis=0), estimates.std(axis=0) / repeats**0.5


# GDPO's nodes with independent masks integrate a polynomial of degree L - 1 = 3 exactly from 2 nodes on.
@pytest.mark.parametrize(
    "estimator,num_draws", [("uniform", 1), ("uniform", 4), ("antithetic", 2), ("antithetic", 4), ("gdpo-bernoulli", 2)]
)
def test_the_estimate_is_unbiased(log_probs, estimator, num_draws):
    mean, error = elbo_statistics(log_probs, estimator, num_draws)
    np.testing.assert_array_less(jnp.abs(mean - bounds.elbo(log_probs, SPACE)), 5 * error)


@pytest.mark.parametrize("num_draws", [1, 2, 3, 4])
def test_gdpo_has_the_mean_of_the_mask_counts_that_its_nodes_reach(log_probs, num_draws):
    """Node n sees only contexts with floor(t_n L) masked tokens: their mean, times w_n / t_n, summed over the nodes."""
    nodes, weights = gauss_legendre(num_draws)
    num_masked = SPACE.masked.sum(axis=-1)
    expected = 0.0
    for t, w in zip(nodes, weights, strict=True):
        chosen = num_masked == int(t * LENGTH + 1e-9)
        expected = expected + w / t * log_probs[:, chosen].sum(axis=-1).mean(axis=-1)
    mean, error = elbo_statistics(log_probs, "gdpo", num_draws)
    np.testing.assert_array_less(jnp.abs(mean - expected), 5 * error + 1e-12)
    assert jnp.max(jnp.abs(expected - bounds.elbo(log_probs, SPACE))) > 0.05, "the bias is real at this length"


def test_gdpo_with_its_two_default_nodes_never_masks_a_whole_sequence_of_4():
    draws = sample_draws(jax.random.key(0), "gdpo", 2, 500, LENGTH)
    counts = SPACE.masked.sum(axis=-1)[np.asarray(draws.subset)]
    np.testing.assert_array_equal(np.unique(counts[:, 0]), [0])  # floor(.2113 x 4)
    np.testing.assert_array_equal(np.unique(counts[:, 1]), [3])  # floor(.7887 x 4)


def test_antithetic_partners_mask_c_and_l_plus_1_minus_c_tokens_from_opposite_ends():
    draws = sample_draws(jax.random.key(0), "antithetic", 2, 500, LENGTH)
    first, second = SPACE.masked[np.asarray(draws.subset)].transpose(1, 0, 2)
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


def test_draws_that_cover_every_subset_in_proportion_give_the_exact_bounds(log_probs):
    """Every subset but the full one, weighted as the orders weigh it: sum_k weight_k 1[i masked] is 1 for each i."""
    subsets = np.arange(2**LENGTH - 1)
    weight = SPACE.order_weights[subsets].max(axis=-1)  # equal over the masked positions
    num_sequences = VOCAB**LENGTH
    draws = Draws(
        jnp.broadcast_to(jnp.asarray(subsets), (num_sequences, len(subsets))),
        jnp.broadcast_to(jnp.asarray(weight), (num_sequences, len(subsets))),
    )
    np.testing.assert_allclose(estimated_elbo(log_probs, draws), bounds.elbo(log_probs, SPACE), atol=1e-12)
    for order in (1.0, 1.5, 3.0):
        ours = jax.jit(estimated_eubo)(log_probs, draws, SPACE.masked, order)
        np.testing.assert_allclose(ours, bounds.eubo_spg(log_probs, SPACE, order), atol=1e-12)


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e != "exact"])
def test_estimated_bounds_have_finite_gradients_although_some_tokens_are_never_masked(log_probs, estimator):
    draws = sample_draws(jax.random.key(2), estimator, 2, VOCAB**LENGTH, LENGTH)
    for function in (
        lambda z: jnp.sum(estimated_elbo(z, draws)),
        lambda z: jnp.sum(estimated_eubo(z, draws, SPACE.masked, 1.5)),
    ):
        assert bool(jnp.all(jnp.isfinite(jax.jit(jax.grad(function))(log_probs))))


def test_the_eubo_of_a_single_draw_has_the_gradient_of_its_unweighted_log_probabilities(log_probs):
    draws = sample_draws(jax.random.key(2), "uniform", 1, VOCAB**LENGTH, LENGTH)
    ours = jax.grad(lambda z: jnp.sum(estimated_eubo(z, draws, SPACE.masked, 1.5)))(log_probs)
    np.testing.assert_allclose(ours.sum(axis=1), SPACE.masked[np.asarray(draws.subset[:, 0])].astype(float), atol=1e-12)


def test_an_odd_number_of_antithetic_draws_is_refused():
    with pytest.raises(ValueError, match="even, got 3"):
        sample_draws(jax.random.key(0), "antithetic", 3, 4, 2)
    with pytest.raises(ValueError, match="'sobol' is unknown"):
        sample_draws(jax.random.key(0), "sobol", 2, 4, 2)
