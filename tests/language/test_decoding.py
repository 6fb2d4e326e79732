"""Decoders: what they fill and when, and the exact likelihood of each against enumeration and against counting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.bounds import any_order
from dipod_jax.language.decoder_likelihood import decoder_log_prob
from dipod_jax.language.decoding import DecoderOptions, decode, noise_shape

DECODERS = [
    DecoderOptions(order, tokens_per_step, block_size, temperature)
    for order in ("confidence", "random", "entropy")
    for tokens_per_step, block_size, temperature in [(1, None, 1.0), (2, None, 0.7), (2, 3, 1.3), (1, 2, 1.0)]
]
NAMES = [f"{d.order}-{d.tokens_per_step}-{d.block_size}" for d in DECODERS]


def table_model(length: int, vocab: int, seed: int = 0, scale: float = 1.5):
    """A network that looks its logits up: (number of contexts, L, V), by context in base V + 1."""
    logits = scale * jax.random.normal(jax.random.key(seed), ((vocab + 1) ** length, length, vocab))
    place = (vocab + 1) ** jnp.arange(length)
    return lambda tokens: logits[jnp.sum(tokens * place, -1)]


def all_log_probs(model, length: int, vocab: int, options: DecoderOptions) -> tuple[np.ndarray, np.ndarray]:
    """Every sequence and its log-likelihood under a decoder, all positions blank."""
    tokens = jnp.array(list(itertools.product(range(1, vocab + 1), repeat=length)))
    contexts = any_order.subset_contexts(tokens, jnp.ones_like(tokens, bool), length, mask=0)
    return np.asarray(tokens), np.asarray(decoder_log_prob(model(contexts), tokens, options))


@pytest.mark.slow
@pytest.mark.parametrize("options", DECODERS, ids=NAMES)
def test_the_likelihood_of_every_decoder_sums_to_1(options):
    for length, vocab in ((4, 3), (5, 2)):
        _, log_prob = all_log_probs(table_model(length, vocab), length, vocab, options)
        assert np.exp(log_prob).sum() == pytest.approx(1.0, abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", DECODERS, ids=NAMES)
def test_samples_are_as_frequent_as_the_likelihood_says(options):
    length, vocab, count = 4, 2, 20_000
    model = table_model(length, vocab, seed=1)
    tokens, log_prob = all_log_probs(model, length, vocab, options)
    noise = jax.random.normal(jax.random.key(2), (count, *noise_shape(options, length, length)))
    sampled = decode(model, jnp.zeros((count, length), int), noise, options).tokens
    place = (vocab + 1) ** np.arange(length)
    found = (np.asarray(sampled) @ place)[:, None] == tokens @ place
    probs = np.exp(log_prob)
    error = np.sqrt(probs * (1 - probs) / count)
    np.testing.assert_array_less(np.abs(found.mean(0) - probs), 4.5 * error + 1e-6)


@pytest.mark.slow
def test_random_order_one_token_a_step_has_the_any_order_likelihood():
    tokens = jnp.array(list(itertools.product((1, 2, 3), repeat=4)))
    contexts = any_order.subset_contexts(tokens, jnp.ones_like(tokens, bool), 4, mask=0)
    logits = table_model(4, 3)(contexts)
    table = jnp.take_along_axis(jax.nn.log_softmax(logits), (tokens - 1)[:, None, :, None], -1)[..., 0]
    table = jnp.where(any_order.make_subsets(4).masked, table, 0.0)
    found = decoder_log_prob(logits, tokens, DecoderOptions("random", 1, None, 1.0))
    np.testing.assert_allclose(found, any_order.log_order_mean(table), rtol=1e-4)


@pytest.mark.slow
def test_ties_in_confidence_go_to_the_first_blank_in_sampler_and_likelihood():
    uniform = lambda tokens: jnp.zeros((*tokens.shape, 3))
    options = DecoderOptions("confidence", 1, None, 1.0)
    noise = jax.random.normal(jax.random.key(0), (7, *noise_shape(options, 4, 4)))
    step = decode(uniform, jnp.zeros((7, 4), int), noise, options).step
    np.testing.assert_array_equal(step, [[0, 1, 2, 3]] * 7)
    _, log_prob = all_log_probs(uniform, 4, 3, options)
    np.testing.assert_allclose(log_prob, np.full(81, 4 * np.log(1 / 3)), rtol=1e-5)


def test_greedy_confidence_fills_what_is_surest_first():
    """Position i is sure to degree sure[i], whatever stands elsewhere; its best word is best[i]."""
    sure, best = jnp.array([1.0, 4.0, 2.0, 3.0]), jnp.array([2, 1, 3, 2])
    model = lambda tokens: jnp.broadcast_to(sure[:, None] * jax.nn.one_hot(best - 1, 3), (*tokens.shape, 3))
    options = DecoderOptions("confidence", 2, None, 0.0)
    found = decode(model, jnp.zeros((1, 4), int), jnp.zeros((1, 2, 4, 2)), options)
    np.testing.assert_array_equal(found.tokens, [best])
    np.testing.assert_array_equal(found.step, [[1, 0, 1, 0]])


def test_given_tokens_stay_and_prompts_of_fewer_blanks_finish_early():
    model = table_model(5, 2)
    options = DecoderOptions("random", 2, None, 1.0)
    prompt = jnp.array([[1, 0, 2, 0, 0], [0, 2, 2, 2, 1], [0, 0, 0, 0, 0]])
    found = decode(model, prompt, jax.random.normal(jax.random.key(0), (3, 3, 5, 2)), options)
    np.testing.assert_array_equal(jnp.where(prompt > 0, found.tokens, 0), prompt)
    assert (found.tokens > 0).all()
    np.testing.assert_array_equal(found.step == -1, prompt > 0)
    assert sorted(found.step[2].tolist()) == [0, 0, 1, 1, 2]
    assert found.step[1, 0] == 0


def test_blocks_are_finished_in_reading_order():
    options = DecoderOptions("confidence", 2, 3, 1.0)
    assert options.num_steps(7) == 5  # 2 + 2 + 1
    noise = jax.random.normal(jax.random.key(0), (9, *noise_shape(options, 8, 7)))
    prompt = jnp.zeros((9, 8), int).at[:, 2].set(1)
    step = decode(table_model(8, 2), prompt, noise, options).step
    blanks = np.asarray(step)[:, [0, 1, 3, 4, 5, 6, 7]]
    assert (np.sort(blanks[:, :3]) == [0, 0, 1]).all()
    assert (np.sort(blanks[:, 3:6]) == [2, 2, 3]).all()
    assert (blanks[:, 6] == 4).all()


@pytest.mark.parametrize(
    "values, flag",
    [
        ({"order": "left"}, "order"),
        ({"tokens_per_step": 0}, "tokens-per-step"),
        ({"block_size": 0}, "block-size"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_an_option_out_of_range_is_named(values, flag):
    with pytest.raises(ValueError, match=f"^--policy.decoder.{flag} "):
        DecoderOptions(**values).validate()
