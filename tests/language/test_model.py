"""The transformer against an independent numpy forward, and pretraining against exact sums."""

import dataclasses
import itertools
import json
import threading
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.language import MASK, Countdown, Sudoku, pretrain
from dipod_jax.language.model import MaskedTransformer, token_log_probs
from dipod_jax.language.pretrain import (
    MADE_OF,
    PretrainOptions,
    fingerprint,
    init_params,
    load_params,
    masked_loss,
    pretrained,
)
from dipod_jax.runs import CheckpointError, save_checkpoint

SMALL = MaskedTransformer(length=16, vocab_size=4, width=16, num_layers=2, num_heads=2)
BRIEF = PretrainOptions(steps=3, batch_size=4)


def random_params(network: MaskedTransformer, seed: int) -> dict:
    """Fresh parameters with a head that is not 0."""
    params = init_params(network, jax.random.key(seed))
    head = params["params"]["head"]["kernel"]
    params["params"]["head"]["kernel"] = jax.random.normal(jax.random.key(seed), head.shape)
    return params


def numpy_forward(params: dict, tokens: np.ndarray, num_heads: int) -> np.ndarray:
    """Logits (L, V) of one sequence, one position and one head at a time, in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    norm = lambda x, name: x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * p[name]["scale"]
    x = np.stack([p["embedding"][t] for t in tokens]) + p["position"]
    width = x.shape[-1]
    size = width // num_heads
    for layer in range(sum(name.startswith("mlp_in") for name in p)):
        qkv = norm(x, f"attention_norm_{layer}") @ p[f"attention_in_{layer}"]["kernel"]
        q, k, v = (qkv[:, i * width : (i + 1) * width] for i in range(3))
        mixed = np.zeros_like(x)
        for h, i in itertools.product(range(num_heads), range(len(x))):
            part = slice(h * size, (h + 1) * size)
            scores = np.array([q[i, part] @ k[j, part] for j in range(len(x))]) / np.sqrt(size)
            weights = np.exp(scores - scores.max())
            mixed[i, part] = (weights / weights.sum()) @ v[:, part]
        x = x + mixed @ p[f"attention_out_{layer}"]["kernel"]
        hidden = np.maximum(norm(x, f"mlp_norm_{layer}") @ p[f"mlp_in_{layer}"]["kernel"], 0.0) ** 2
        x = x + hidden @ p[f"mlp_out_{layer}"]["kernel"]
    return norm(x, "head_norm") @ p["head"]["kernel"]


@pytest.mark.slow
def test_forward_equals_numpy():
    params = random_params(SMALL, 0)
    tokens = np.random.default_rng(0).integers(0, 5, (3, 2, 16))
    logits = SMALL.apply(params, jnp.asarray(tokens))
    expected = [[numpy_forward(params, row, 2) for row in rows] for rows in tokens]
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_the_recipe_has_100224_parameters():
    network = MaskedTransformer(length=16, vocab_size=4)
    shapes = jax.eval_shape(lambda: init_params(network, jax.random.key(0)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 100_224


@pytest.mark.slow
def test_a_fresh_network_is_uniform():
    logits = SMALL.apply(init_params(SMALL, jax.random.key(0)), jnp.arange(16) % 5)
    np.testing.assert_array_equal(logits, np.zeros((16, 4)))


def test_token_log_probs_pick_the_word_that_stands_and_0_for_a_mask():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(
        token_log_probs(logits, jnp.array([1, 3, MASK])), [np.log(0.5), np.log(0.7), 0.0], atol=1e-6
    )


@pytest.mark.slow
def test_pretraining_loss_is_the_exact_elbo_per_token_on_average():
    network = MaskedTransformer(length=9, vocab_size=117, width=16)
    params, apply = random_params(network, 1), jax.jit(network.apply)
    corpus = Countdown().corpus()
    tokens, blank = corpus.answer[0], corpus.prompt[0] == MASK
    expected = 0.0
    for count in range(1, 6):
        choices = list(itertools.combinations(np.flatnonzero(blank), count))
        for chosen in choices:
            context = tokens.copy()
            context[list(chosen)] = MASK
            log_prob = token_log_probs(apply(params, context), tokens)
            expected -= sum(float(log_prob[i]) for i in chosen) * 5 / count / len(choices) / 5
    copies = 4_000
    loss = jax.jit(masked_loss, static_argnums=0)(
        network,
        params,
        jnp.broadcast_to(tokens, (copies, 9)),
        jnp.broadcast_to(blank, (copies, 9)),
        jax.random.key(2),
    )
    assert float(loss) == pytest.approx(expected / 5, rel=0.02)


@pytest.mark.slow
def test_the_same_pretraining_is_made_once_and_another_beside_it(tmp_path):
    task, said = Sudoku(), []
    first = pretrained(task, SMALL, BRIEF, tmp_path, said.append)
    again = pretrained(task, SMALL, BRIEF, tmp_path, said.append)
    assert (first.was_cached, again.was_cached) == (False, True)
    assert len(said) == 1 and "3 of 3 steps" in said[0]
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    other = pretrained(task, SMALL, dataclasses.replace(BRIEF, seed=1), tmp_path, said.append)
    assert other.path != first.path
    assert json.loads((first.path / MADE_OF).read_text())["pretraining"]["steps"] == 3


def test_of_two_that_want_one_model_at_once_one_makes_it(tmp_path, monkeypatch):
    made, found = [], []

    def slowly(task, network, options, say):
        made.append(task)
        time.sleep(0.5)
        return init_params(network, jax.random.key(0))

    monkeypatch.setattr(pretrain, "pretrain", slowly)
    want = lambda: found.append(pretrained(Sudoku(), SMALL, BRIEF, tmp_path, lambda line: None))
    both = [threading.Thread(target=want) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
    assert len(made) == 1 and sorted(each.was_cached for each in found) == [False, True]
    jax.tree.map(np.testing.assert_array_equal, found[0].params, found[1].params)


def test_the_hash_is_of_task_network_and_options():
    of = lambda *made_of: fingerprint(*made_of)[0]
    digests = [
        of(Sudoku(), SMALL, BRIEF),
        of(Sudoku(blanks=10), SMALL, BRIEF),
        of(Sudoku(), dataclasses.replace(SMALL, width=32), BRIEF),
        of(Sudoku(), SMALL, dataclasses.replace(BRIEF, learning_rate=2e-3)),
    ]
    assert len(set(digests)) == 4
    assert of(Sudoku(), SMALL, BRIEF) == digests[0]


def test_parameters_of_another_network_are_refused(tmp_path):
    shapes = jax.eval_shape(partial(init_params, SMALL), jax.random.key(0))
    save_checkpoint(tmp_path, 0, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    with pytest.raises(CheckpointError, match="holds state"):
        load_params(tmp_path, dataclasses.replace(SMALL, width=32))
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_params(tmp_path / "nothing", SMALL)


@pytest.mark.parametrize("values", [{"steps": 0}, {"learning_rate": 0.0}, {"steps": 500, "decay_steps": 400}])
def test_an_option_out_of_range_is_named(values):
    flag = list(values)[-1].replace("_", "-")
    with pytest.raises(ValueError, match=f"--pretraining.{flag}"):
        PretrainOptions(**values).validate()


@pytest.mark.slow
def test_sudoku_pretraining_reaches_95_percent_in_250_steps():
    from dipod_jax.language.decoding import DecoderOptions, decode, noise_shape
    from dipod_jax.language.pretrain import pretrain

    task, network = Sudoku(), MaskedTransformer(16, 4)
    params = pretrain(task, network, PretrainOptions(steps=250), lambda line: None)
    problems = task.problems("test")
    prompt, answer = problems.prompt[:256], problems.answer[:256]
    options = DecoderOptions(temperature=0.0)
    noise = jnp.zeros((256, *noise_shape(options, 16, 8)))
    tokens = decode(lambda t: network.apply(params, t), jnp.asarray(prompt), noise, options).tokens
    assert float(task.solved(prompt, answer, tokens).mean()) > 0.95
