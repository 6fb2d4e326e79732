"""LLaDA (arXiv 2502.09992), a masked diffusion of 8 billion parameters, as a network for `MaskedPolicy`.

A folder with the published weights becomes a policy that scores and samples like any other of this library:

    policy, params = load_policy(Path("LLaDA-8B-Instruct"), length=512, num_blanks=256)

Tokens here are 0 for a blank and id + 1 for a word of the tokenizer (`to_tokens`, `to_ids`). docs/language.md works out
the memory and the time. The model of 8 billion parameters has not been run: the forward pass is tested on small random
weights, the shapes against the published configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dipod_jax.checks import Checked
from dipod_jax.language.task import MASK
from dipod_jax.policies.masked import MaskedOptions, MaskedPolicy
from dipod_jax.types import Params

# Options of the published config.json that the network assumes, with their values.
ASSUMED = {
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "rope": True,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
    "scale_logits": False,
    "input_emb_norm": False,
    "attention_layer_norm": False,
}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
NORMS = ("attn_norm", "ff_norm")


class WeightsError(ValueError):
    """A folder does not hold the weights of such a network; one line."""


@dataclass(frozen=True)
class LladaConfig:
    """Sizes of the network, by their names in the published config.json; the defaults are LLaDA-8B's."""

    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    mlp_hidden_size: int = 12288
    embedding_size: int = 126464
    """rows of the embedding and of the output layer"""
    mask_token_id: int = 126336
    rope_theta: float = 500000.0
    rms_norm_eps: float = 1e-5

    @classmethod
    def read(cls, folder: Path) -> LladaConfig:
        """The configuration in `folder`/config.json.

        Raises:
            WeightsError: it cannot be read, or is of an architecture that differs from the published one.
        """
        path = Path(folder) / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            config = cls(**{name: values[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"{path} is not the configuration of a LLaDA: {error!r}") from error
        differs = [f"{name} {values[name]}" for name, value in ASSUMED.items() if values.get(name, value) != value]
        if values.get("n_kv_heads") not in (None, config.n_heads):
            differs.append(f"n_kv_heads {values['n_kv_heads']}")
        if differs:
            raise WeightsError(f"{path}: {', '.join(differs)} is not supported; LLaDA-8B has another")
        return config


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters (arXiv 2106.09685): W x + (alpha / rank) B A x, with B = 0 at the start."""

    rank: int = 128
    """rank of an adapter, >= 0; 0: none"""
    alpha: float = 64.0
    """scale, > 0"""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "up_proj")
    """projections that have one"""

    def __post_init__(self):
        check = Checked(self, "lora")
        check.number("rank")
        check.positive("alpha")
        check.require(not set(self.targets) - set(PROJECTIONS), "targets", f"some of {', '.join(PROJECTIONS)}")


NO_LORA = LoraOptions(rank=0)


class RmsNorm(nn.Module):
    """x / sqrt(mean x^2 + eps), in float32, times a weight."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],), x.dtype)
        wide = x.astype(jnp.float32)
        scaled = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.eps)
        return weight * scaled.astype(x.dtype)


class Projection(nn.Module):
    """x W, plus its adapter's where it has one."""

    size: int
    name_in_block: str
    lora: LoraOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.normal(0.02)
        y = x @ self.param("kernel", init, (x.shape[-1], self.size), x.dtype)
        rank = self.lora.rank if self.name_in_block in self.lora.targets else 0
        if rank == 0:
            return y
        fresh = lambda: nn.initializers.lecun_normal()(self.make_rng("params"), (x.shape[-1], rank), jnp.float32)
        down = self.variable("lora", "down", fresh).value
        up = self.variable("lora", "up", jnp.zeros, (rank, self.size), jnp.float32).value
        return y + (self.lora.alpha / rank) * (x @ down.astype(x.dtype)) @ up.astype(x.dtype)


class Block(nn.Module):
    """Pre-norm attention of every position to every other, and SwiGLU; (B, L, d) -> the same."""

    config: LladaConfig
    lora: LoraOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        config = self.config
        project = lambda name, size, x: Projection(size, name, self.lora, name=name)(x)
        h = RmsNorm(config.rms_norm_eps, name="attn_norm")(x)
        q, k, v = (
            project(name, config.d_model, h).reshape(*h.shape[:-1], config.n_heads, -1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q, k = rotate(q, config.rope_theta), rotate(k, config.rope_theta)
        x = x + project("attn_out", config.d_model, jax.nn.dot_product_attention(q, k, v).reshape(h.shape))
        h = RmsNorm(config.rms_norm_eps, name="ff_norm")(x)
        gate = jax.nn.silu(project("ff_proj", config.mlp_hidden_size, h))
        return x + project("ff_out", config.d_model, gate * project("up_proj", config.mlp_hidden_size, h)), None


class Llada(nn.Module):
    """Tokens (..., L), 0 where blank and id + 1 else -> float32 logits (..., L, V) of the words 1..V.

    Blocks are scanned over and recomputed for the gradient. A blank is never an answer: the logit of the mask is the
    lowest number. Variables: `params`, the published weights, and `lora`, what is trained.
    """

    config: LladaConfig
    lora: LoraOptions = NO_LORA
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        config = self.config
        shape, size = (config.embedding_size, config.d_model), config.embedding_size
        ids = to_ids(tokens.reshape(-1, tokens.shape[-1]), config)
        x = jnp.take(self.param("wte", nn.initializers.normal(0.02), shape, self.dtype), ids, axis=0)
        layers = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            length=config.n_layers,
        )
        x, _ = layers(config, self.lora, name="blocks")(x)
        x = RmsNorm(config.rms_norm_eps, name="ln_f")(x)
        head = self.param("ff_out", nn.initializers.normal(0.02), (config.d_model, size), self.dtype)
        logits = jnp.matmul(x, head, preferred_element_type=jnp.float32)
        logits = logits.at[..., config.mask_token_id].set(jnp.finfo(jnp.float32).min)
        return logits.reshape(*tokens.shape, size)


def rotate(x: jax.Array, theta: float) -> jax.Array:
    """Rotary positions (arXiv 2104.09864), (B, L, H, D): features i and i + D / 2 turn by position theta^(-2 i / D)."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequency  # (L, D / 2)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def to_tokens(ids: jax.Array, config: LladaConfig) -> jax.Array:
    """The tokenizer's ids as tokens: its mask is a blank, 0, and any other id is one more."""
    return jnp.where(ids == config.mask_token_id, MASK, ids + 1)


def to_ids(tokens: jax.Array, config: LladaConfig) -> jax.Array:
    """Inverse of `to_tokens`."""
    return jnp.where(tokens == MASK, config.mask_token_id, tokens - 1)


def weight_names(config: LladaConfig) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
    """Every tensor of the published files: name -> (shape there, place in `params`); a linear layer is (out, in)."""
    d, hidden = config.d_model, config.mlp_hidden_size
    outs = dict.fromkeys(PROJECTIONS, d) | {"ff_proj": hidden, "up_proj": hidden}
    ins = dict.fromkeys(PROJECTIONS, d) | {"ff_out": hidden}
    names: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
        "model.transformer.wte.weight": ((config.embedding_size, d), ("wte",)),
        "model.transformer.ln_f.weight": ((d,), ("ln_f", "weight")),
        "model.transformer.ff_out.weight": ((config.embedding_size, d), ("ff_out",)),
    }
    for layer in range(config.n_layers):
        start = f"model.transformer.blocks.{layer}"
        names |= {f"{start}.{n}.weight": ((outs[n], ins[n]), ("blocks", n, "kernel")) for n in PROJECTIONS}
        names |= {f"{start}.{n}.weight": ((d,), ("blocks", n, "weight")) for n in NORMS}
    return names


def read_weights(folder: Path, config: LladaConfig, dtype: Any = jnp.bfloat16) -> Params:
    """The variable `params` from every safetensors file of a folder, the layers stacked along a leading axis.

    Args:
        folder: with `*.safetensors`; needs the extra `llada`.
        dtype: of the weights in memory.

    Raises:
        WeightsError: a tensor is missing, unknown, or of another shape.
    """
    names, layers = weight_names(config), {}
    params: dict[str, Any] = {}
    for name, tensor in _tensors(folder, names):
        shape, place = names[name]
        if tensor.shape != shape:
            raise WeightsError(f"{folder}: {name} has the shape {tensor.shape}, not {shape}")
        array = (tensor.T if place[-1] in ("kernel", "ff_out") else tensor).astype(dtype)
        if place[0] == "blocks":
            layers.setdefault(place, {})[int(name.split(".")[3])] = array
        else:
            _put(params, place, array)
    for place in sorted(layers):
        found = layers.pop(place)
        _put(params, place, jnp.stack([found[layer] for layer in range(config.n_layers)]))
    return {"params": params}


def _put(tree: dict[str, Any], place: tuple[str, ...], array: jax.Array) -> None:
    for part in place[:-1]:
        tree = tree.setdefault(part, {})
    tree[place[-1]] = array


def _tensors(folder: Path, names: dict) -> Iterator[tuple[str, jax.Array]]:
    """Every tensor of the folder, one at a time, once it is known that all are there and no others."""
    from safetensors import safe_open

    files = sorted(Path(folder).glob("*.safetensors"))
    held: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="flax") as file:
            held |= dict.fromkeys(file.keys(), path)
    if missing := sorted(set(names) - set(held)):
        raise WeightsError(f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}")
    if unknown := sorted(set(held) - set(names)):
        raise WeightsError(f"{folder}: {len(unknown)} tensors are unknown, the first is {unknown[0]}")
    for path in files:
        with safe_open(path, framework="flax") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118


def load_policy(
    folder: Path,
    *,
    length: int,
    num_blanks: int,
    options: MaskedOptions | None = None,
    lora: LoraOptions = NO_LORA,
    dtype: Any = jnp.bfloat16,
    key: jax.Array | None = None,
) -> tuple[MaskedPolicy, Params]:
    """A policy over the network in a folder, and its variables: `params`, and fresh adapters `lora` where asked for.

    Args:
        length: L, tokens of a sequence, prompt and answer. num_blanks: the largest number of blanks in it.
        options: of the policy; LLaDA's own decoder where None: low confidence, one token a step, blocks of 32,
            temperature 0.
        key: of the adapters; seed 0 where None.

    Raises:
        WeightsError: as `LladaConfig.read` and `read_weights`.
    """
    config = LladaConfig.read(folder)
    policy = make_policy(config, length=length, num_blanks=num_blanks, options=options, lora=lora, dtype=dtype)
    variables = read_weights(folder, config, dtype)
    if lora.rank:
        key = jax.random.key(0) if key is None else key
        fresh = jax.jit(lambda k: policy.init(k)["lora"])  # the weights beside them are never computed
        variables = variables | {"lora": fresh(key)}
    return policy, variables


def make_policy(
    config: LladaConfig,
    *,
    length: int,
    num_blanks: int,
    options: MaskedOptions | None = None,
    lora: LoraOptions = NO_LORA,
    dtype: Any = jnp.bfloat16,
) -> MaskedPolicy:
    """The policy without its weights; arguments as of `load_policy`."""
    from dipod_jax.language.decoding import DecoderOptions

    decoder = DecoderOptions(tokens_per_step=1, block_size=32, temperature=0.0)
    return MaskedPolicy(options or MaskedOptions(decoder), Llada(config, lora, dtype), length, num_blanks)
