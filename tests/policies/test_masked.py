"""The token policy: its scores and likelihoods against enumeration over orders, masks and sequences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.language import MASK
from dipod_jax.language.decoding import DecoderOptions
from dipod_jax.language.model import MaskedTransformer
from dipod_jax.policies.masked import MaskedOptions, MaskedPolicy

LENGTH, VOCAB, BLANKS = 5, 3, 3
NETWORK = MaskedTransformer(LENGTH, VOCAB, width=16)
PROMPT = jnp.array([2, 0, 0, 1, 0])
apply = jax.jit(NETWORK.apply)


def make_policy(**options) -> MaskedPolicy:
    return MaskedPolicy(MaskedOptions(**options), NETWORK, LENGTH, BLANKS)


@pytest.fixture(scope="module")
def params():
    drawn = make_policy().init(jax.random.key(0))
    drawn["params"]["head"]["kernel"] = jax.random.normal(jax.random.key(1), (16, VOCAB))  # a fresh head is uniform
    return drawn


def completions() -> jax.Array:
    """All 27 sequences that complete the prompt."""
    words = np.array(list(itertools.product(range(1, VOCAB + 1), repeat=BLANKS)))
    tokens = np.tile(PROMPT, (len(words), 1))
    tokens[:, np.flatnonzero(PROMPT == MASK)] = words
    return jnp.asarray(tokens)


def log_paths(params, tokens) -> jax.Array:
    """(3!,) log-probability of revealing the blanks of one sequence in each order."""
    blanks = [int(i) for i in np.flatnonzero(PROMPT == MASK)]
    orders = list(itertools.permutations(blanks))
    contexts = [
        [[t if i not in order[k:] else MASK for i, t in enumerate(tokens)] for k in range(3)] for order in orders
    ]
    log_probs = jax.nn.log_softmax(apply(params, jnp.array(contexts)))  # (3!, step, L, V)
    words = np.asarray(tokens) - 1
    return jnp.stack([sum(log_probs[o, k, i, words[i]] for k, i in enumerate(order)) for o, order in enumerate(orders)])


@pytest.mark.slow
def test_exact_likelihood_equals_enumeration_over_orders_and_sums_to_1(params):
    tokens = completions()
    log_prob, valid = make_policy().exact(params, jnp.broadcast_to(PROMPT, tokens.shape), tokens)
    expected = [np.log(np.mean(np.exp(log_paths(params, row)))) for row in np.asarray(tokens[::5])]
    np.testing.assert_allclose(log_prob[::5], expected, atol=2e-5)
    assert float(jnp.exp(log_prob).sum()) == pytest.approx(1.0, abs=1e-5)
    assert valid.all()


@pytest.mark.slow
def test_gradient_of_the_exact_likelihood_equals_that_of_the_enumeration(params):
    tokens = np.asarray(completions()[11])
    found = jax.grad(lambda p: make_policy().exact(p, PROMPT, tokens)[0])(params)
    expected = jax.grad(lambda p: jax.nn.logsumexp(log_paths(p, tokens)))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@pytest.mark.slow
def test_exact_bounds_enclose_the_likelihood(params):
    tokens = completions()
    exact = make_policy().exact_bounds(params, jnp.broadcast_to(PROMPT, tokens.shape), tokens, eubo_order=3.0)
    np.testing.assert_allclose(exact.elbo[7], log_paths(params, np.asarray(tokens[7])).mean(), atol=2e-5)
    assert (exact.elbo < exact.log_prob).all()
    assert (exact.eubo > exact.log_prob).all()  # order 3 of 3 blanks
    assert (exact.renyi > exact.log_prob).all()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["confidence", "random", "entropy"])
def test_the_acting_decoders_likelihood_sums_to_1_over_completions(params, order):
    policy = make_policy(decoder=DecoderOptions(order, 2, None, 0.9))
    tokens = completions()
    exact = policy.exact_bounds(params, jnp.broadcast_to(PROMPT, tokens.shape), tokens)
    assert float(jnp.exp(exact.decoder_log_prob).sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_a_greedy_decoder_has_no_likelihood(params):
    policy = make_policy(decoder=DecoderOptions(temperature=0.0))
    assert jnp.isnan(policy.exact_bounds(params, PROMPT, completions()[0]).decoder_log_prob)


@pytest.mark.slow
def test_a_prompt_of_fewer_blanks_is_as_exact(params):
    fuller = jnp.array([2, 0, 3, 1, 0])
    tokens = jnp.array([2, 1, 3, 1, 2])
    few = MaskedPolicy(MaskedOptions(), NETWORK, LENGTH, 2)
    found, valid = make_policy().exact(params, fuller, tokens)
    np.testing.assert_allclose(found, few.exact(params, fuller, tokens)[0], atol=1e-5)
    assert valid
    assert not few.exact(params, PROMPT, tokens)[1]  # 3 blanks do not fit into tables of 2


def mean_score(policy, params, tokens, copies=8_000):
    obs, action = (jnp.broadcast_to(x, (copies, LENGTH)) for x in (PROMPT, tokens))
    evidence = policy.prepare(params, jax.random.key(3), obs, None)
    scores = jax.jit(policy.score)(params, obs, action, evidence)
    return scores, float(scores.mean().mean()), float(scores.mean().std() / np.sqrt(copies))


@pytest.mark.slow
@pytest.mark.parametrize("draws", ["uniform", "stratified", "antithetic", "coupled", "quadrature"])
def test_weighted_losses_are_minus_the_elbo_on_average(params, draws):
    tokens = completions()[5]
    scores, mean, error = mean_score(make_policy(draws=draws), params, tokens)
    exact = float(make_policy().exact_bounds(params, PROMPT, tokens).elbo)
    assert abs(mean + exact) < 4.5 * error
    np.testing.assert_allclose(scores.bound, scores.mean(), rtol=1e-5)
    assert scores.known.all() and float(scores.weight.sum()) == pytest.approx(1.0)


@pytest.mark.slow
def test_length_normalised_scores_and_bound_are_divided_by_the_number_of_blanks(params):
    tokens = completions()[5]
    plain, normalised = (mean_score(make_policy(length_normalised=n), params, tokens, 10)[0] for n in (False, True))
    np.testing.assert_allclose(normalised.loss, plain.loss / BLANKS, rtol=1e-5)
    np.testing.assert_allclose(normalised.bound, plain.bound / BLANKS, rtol=1e-5)


@pytest.mark.slow
def test_scores_by_token_at_one_step_are_those_of_the_fully_masked_context(params):
    policy = make_policy(draws="one-step", num_draws=1, scores="token", bound_draws=4)
    tokens = completions()[16]
    scores, mean, _ = mean_score(policy, params, tokens, 4_000)
    log_probs = jax.nn.log_softmax(apply(params, PROMPT))
    expected = [-log_probs[i, tokens[i] - 1] for i in (1, 2, 4)]
    np.testing.assert_allclose(scores.loss, np.tile(expected, (4_000, 1)), atol=1e-5)
    assert mean == pytest.approx(float(np.mean(expected)), abs=1e-5)
    exact = float(policy.exact_bounds(params, PROMPT, tokens).elbo)
    error = float(scores.bound.std()) / np.sqrt(4_000)
    assert abs(float(scores.bound.mean()) + exact / BLANKS) < 4.5 * error


@pytest.mark.slow
def test_a_token_that_no_mask_hides_has_no_known_score(params):
    policy = make_policy(num_draws=1, scores="token")
    evidence = policy.prepare(params, jax.random.key(0), jnp.broadcast_to(PROMPT, (64, LENGTH)), None)
    scores = policy.score(params, PROMPT, completions()[0], jax.tree.map(lambda x: x[0], evidence))
    np.testing.assert_array_equal(scores.known, evidence.score.hidden[0, 0][jnp.array([1, 2, 4])])
    assert (jnp.where(scores.known, 0.0, scores.loss) == 0.0).all()


def test_samples_complete_the_prompt_and_say_in_which_step(params):
    policy = make_policy()
    obs = jnp.broadcast_to(PROMPT, (20, LENGTH))
    noise = jax.random.normal(jax.random.key(0), (20, *policy.noise_shape))
    action, step = policy.sample(params, obs, noise)
    np.testing.assert_array_equal(jnp.where(PROMPT == MASK, MASK, action), obs)
    assert (action > 0).all() and policy.squash(action) is action
    np.testing.assert_array_equal(step == -1, obs > 0)
    assert set(np.asarray(step[:, 1]).tolist()) <= {0, 1}


@pytest.mark.parametrize(
    "options, flag",
    [
        ({"num_draws": 0}, "num-draws"),
        ({"num_draws": 3, "draws": "coupled"}, "num-draws"),
        ({"prompt_masking": 1.5}, "prompt-masking"),
        ({"draws": "some"}, "draws"),
        ({"decoder": DecoderOptions(tokens_per_step=0)}, "tokens-per-step"),
    ],
)
def test_an_option_out_of_range_is_named(options, flag):
    with pytest.raises(ValueError, match=f"{flag} .* is not allowed"):
        MaskedOptions(**options).validate()
