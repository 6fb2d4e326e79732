"""LLaDA: the forward pass against numpy, the names and shapes of the published files, adapters, decoding."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.language import MASK
from dipod_jax.language.decoding import DecoderOptions
from dipod_jax.language.llada import (
    LladaConfig,
    LoraOptions,
    WeightsError,
    load_policy,
    make_policy,
    read_weights,
    to_ids,
    to_tokens,
    weight_names,
)
from dipod_jax.policies.masked import MaskedOptions

safetensors = pytest.importorskip("safetensors.numpy", reason="needs the extra llada")

SMALL = LladaConfig(
    d_model=8, n_layers=2, n_heads=2, mlp_hidden_size=12, embedding_size=11, mask_token_id=9, rope_theta=500.0
)
PUBLISHED = {  # as in config.json of LLaDA-8B
    "activation_type": "silu",
    "attention_layer_norm": False,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_size": 126464,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "mask_token_id": 126336,
    "mlp_hidden_size": 12288,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "weight_tying": False,
}


def write_folder(folder, config=SMALL, **changes):
    """A folder in the published form, in two files, of random weights; returns them."""
    rng = np.random.default_rng(0)
    shapes = {name: shape for name, (shape, _) in weight_names(config).items()}
    weights = {n: (0.4 * rng.normal(size=s) + (len(s) == 1)).astype(np.float32) for n, s in shapes.items()} | changes
    weights = {name: value for name, value in weights.items() if value is not None}
    folder.mkdir(exist_ok=True)
    names = sorted(weights)
    for part, some in enumerate((names[::2], names[1::2]), start=1):
        safetensors.save_file({n: weights[n] for n in some}, folder / f"model-0000{part}-of-00002.safetensors")
    (folder / "config.json").write_text(json.dumps(PUBLISHED | dataclasses.asdict(config) | {"n_kv_heads": 2}))
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("llada")


@pytest.fixture(scope="module")
def weights(folder):
    return write_folder(folder)


@pytest.fixture(scope="module")
def loaded(folder, weights):
    return load_policy(folder, length=6, num_blanks=4, dtype=jnp.float32)


def forward_in_numpy(weights, ids, config):
    """Logits (L, V) of one sequence, head by head and position by position, in float64."""
    w = {name.removeprefix("model.transformer."): value.astype(np.float64) for name, value in weights.items()}
    norm = lambda x, name: x / np.sqrt((x * x).mean(-1, keepdims=True) + config.rms_norm_eps) * w[f"{name}.weight"]
    size = config.d_model // config.n_heads
    turns = lambda p: [p * config.rope_theta ** (-2 * i / size) for i in range(size // 2)]

    def rotated(x, position):
        turned = np.empty(size)
        for i, angle in enumerate(turns(position)):
            a, b = x[i], x[i + size // 2]
            turned[i], turned[i + size // 2] = (
                a * math.cos(angle) - b * math.sin(angle),
                b * math.cos(angle) + a * math.sin(angle),
            )
        return turned

    x = w["wte.weight"][ids]
    for layer in range(config.n_layers):
        name = f"blocks.{layer}"
        h = norm(x, f"{name}.attn_norm")
        q, k, v = (h @ w[f"{name}.{p}.weight"].T for p in ("q_proj", "k_proj", "v_proj"))
        mixed = np.zeros_like(x)
        for head in range(config.n_heads):
            part = slice(head * size, (head + 1) * size)
            keys = [rotated(k[j, part], j) for j in range(len(ids))]
            for i in range(len(ids)):
                query = rotated(q[i, part], i)
                score = np.exp([query @ key / math.sqrt(size) for key in keys])
                mixed[i, part] = (score / score.sum()) @ v[:, part]
        x = x + mixed @ w[f"{name}.attn_out.weight"].T
        h = norm(x, f"{name}.ff_norm")
        gate, up = h @ w[f"{name}.ff_proj.weight"].T, h @ w[f"{name}.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{name}.ff_out.weight"].T
    return norm(x, "ln_f") @ w["ff_out.weight"].T


def test_the_logits_are_those_of_an_independent_forward_pass(loaded, weights):
    policy, params = loaded
    ids = np.array([[3, 9, 0, 10, 9, 5], [9, 9, 9, 9, 9, 9]])
    found = np.asarray(policy.logits(params, to_tokens(jnp.asarray(ids), SMALL)))
    words = np.arange(11) != SMALL.mask_token_id
    for row, sequence in enumerate(ids):
        expected = forward_in_numpy(weights, sequence, SMALL)
        np.testing.assert_allclose(found[row][:, words], expected[:, words], rtol=2e-4, atol=2e-4)
    assert (np.asarray(jax.nn.softmax(found))[..., ~words] == 0).all()  # a blank is no answer


def test_the_tokenizers_mask_is_a_blank_and_every_other_id_a_word():
    ids = jnp.arange(11)
    tokens = to_tokens(ids, SMALL)
    assert tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, MASK, 11]
    np.testing.assert_array_equal(to_ids(tokens, SMALL), ids)


def test_every_shape_is_that_of_the_published_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    config = LladaConfig.read(tmp_path)
    assert config == LladaConfig()
    policy = make_policy(config, length=4, num_blanks=2)
    shapes = jax.eval_shape(policy.init, jax.random.key(0))["params"]
    names = weight_names(config)
    assert len(names) == 3 + 9 * 32
    of_place = {}
    for shape, place in names.values():
        of_place.setdefault(place, []).append(shape)
    assert sum(len(x) for x in of_place.values()) == len(names)
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    for path, leaf in leaves:
        place = tuple(key.key for key in path)
        there = of_place.pop(place)
        here = leaf.shape[1:] if place[0] == "blocks" else leaf.shape
        assert leaf.dtype == jnp.bfloat16 and set(there) == {here[::-1] if place != ("wte",) else here}
        assert len(there) == (32 if place[0] == "blocks" else 1)
    assert not of_place
    assert sum(math.prod(leaf.shape) for _, leaf in leaves) == 8_015_581_184


def test_weights_are_kept_in_the_precision_asked_for(folder, weights):
    params = read_weights(folder, SMALL)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    kernel = params["blocks"]["ff_proj"]["kernel"]
    assert kernel.shape == (2, 8, 12)
    second = weights["model.transformer.blocks.1.ff_proj.weight"]
    np.testing.assert_allclose(kernel[1].astype(np.float32), second.T, rtol=1e-2)


@pytest.mark.slow
def test_fresh_adapters_change_nothing_and_have_a_gradient(folder, weights, loaded):
    lora = LoraOptions(rank=2, alpha=4.0)
    policy, variables = load_policy(folder, length=6, num_blanks=4, lora=lora, dtype=jnp.float32)
    prompt = to_tokens(jnp.array([[3, 9, 0, 9, 9, 5]]), SMALL)
    np.testing.assert_allclose(policy.logits(variables, prompt), loaded[0].logits(loaded[1], prompt), atol=1e-5)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(variables["lora"])} == {2}
    assert set(variables["lora"]["blocks"]) == set(lora.targets)
    answer = to_tokens(jnp.array([[3, 1, 0, 2, 4, 5]]), SMALL)
    evidence = policy.prepare(variables, jax.random.key(0), prompt, jnp.zeros((1, 6), jnp.int32))

    def bound(adapters):
        return policy.score(variables | {"lora": adapters}, prompt, answer, evidence).bound.mean()

    gradient = jax.jit(jax.grad(bound))(variables["lora"])
    for adapter in gradient["blocks"].values():
        assert (adapter["down"] == 0).all() and (jnp.abs(adapter["up"]).max((1, 2)) > 0).all()  # since B is 0
    step = jax.tree.map(lambda a, g: a - 0.1 * g, variables["lora"], gradient)
    assert bound(step) < bound(variables["lora"])


def test_blocks_are_decoded_from_left_to_right_and_the_prompt_is_kept(loaded):
    policy, params = loaded
    decoder = DecoderOptions(tokens_per_step=1, block_size=2, temperature=0.0)
    policy = make_policy(SMALL, length=6, num_blanks=4, options=MaskedOptions(decoder), dtype=jnp.float32)
    prompt = to_tokens(jnp.array([[3, 7, 9, 9, 9, 9]]), SMALL)
    tokens, step = policy.sample(params, prompt, jnp.zeros((1, *policy.noise_shape)))
    assert tokens[0, :2].tolist() == [4, 8] and (tokens != MASK).all() and (tokens != SMALL.mask_token_id + 1).all()
    assert sorted(step[0, 2:4].tolist()) == [0, 1] and sorted(step[0, 4:].tolist()) == [2, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.transformer.ln_f.weight": None}, "1 tensors are missing, the first is model.transformer.ln_f.weight"),
        ({"lm_head.weight": np.zeros(3, np.float32)}, "1 tensors are unknown, the first is lm_head.weight"),
        ({"model.transformer.ln_f.weight": np.zeros(7, np.float32)}, r"ln_f.weight has the shape \(7,\), not \(8,\)"),
    ],
)
def test_weights_of_another_network_are_named(tmp_path, changes, words):
    write_folder(tmp_path, **changes)
    with pytest.raises(WeightsError, match=words):
        read_weights(tmp_path, SMALL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not the configuration of a LLaDA"),
        ("[]", "is not the configuration of a LLaDA"),
        ("{}", "is not the configuration of a LLaDA"),
        (json.dumps(PUBLISHED | {"weight_tying": True}), "weight_tying True is not supported"),
        (json.dumps(PUBLISHED | {"n_kv_heads": 8}), "n_kv_heads 8 is not supported"),
    ],
)
def test_a_configuration_of_another_architecture_is_refused(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=words):
        LladaConfig.read(tmp_path)
    with pytest.raises(WeightsError, match="is not the configuration"):
        LladaConfig.read(tmp_path / "nowhere")


def test_an_adapter_for_no_projection_is_refused():
    with pytest.raises(ValueError, match=r"--lora\.targets"):
        LoraOptions(targets=("gate_proj",))
