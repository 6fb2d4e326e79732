"""The network of a masked diffusion over tokens: a small transformer that sees a sequence with blanks."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp


class MaskedTransformer(nn.Module):
    """Logits of every word at every position, given the tokens that are not masked.

    Pre-RMSNorm blocks of full attention and a squared-ReLU MLP four times as wide, learned positions, no biases, and no
    time input, since the number of masked tokens determines it. Token 0 is the mask, 1..V are words; logit v is of word
    v + 1. With the defaults and Sudoku's L = 16, V = 4 it has 100,224 parameters.

    Attributes:
      length: L, tokens in a sequence. vocab_size: V. width: of the residual stream, divisible by num_heads.
      num_layers: blocks. num_heads: attention heads. head: initial weights of the layer that makes the logits.
    """

    length: int
    vocab_size: int
    width: int = 64
    num_layers: int = 2
    num_heads: int = 2
    head: Literal["zeros", "random"] = "zeros"

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Tokens (..., L) of 0..V -> logits (..., L, V)."""
        embedding = self.param("embedding", nn.initializers.normal(1.0), (self.vocab_size + 1, self.width))
        position = self.param("position", nn.initializers.normal(1.0), (self.length, self.width))
        # A product with one-hot rows: on a processor the gradient of a gather is a slow scatter.
        x = jax.nn.one_hot(tokens, self.vocab_size + 1, dtype=embedding.dtype) @ embedding + position
        x = x.reshape(-1, self.width)  # of all sequences: gradients of products of matrices are faster than of batches
        for layer in range(self.num_layers):
            x = x + self._attention(nn.RMSNorm(name=f"attention_norm_{layer}")(x), layer)
            h = nn.Dense(4 * self.width, use_bias=False, name=f"mlp_in_{layer}")(
                nn.RMSNorm(name=f"mlp_norm_{layer}")(x)
            )
            x = x + nn.Dense(self.width, use_bias=False, name=f"mlp_out_{layer}")(jnp.square(nn.relu(h)))
        initial = nn.initializers.zeros if self.head == "zeros" else nn.initializers.lecun_normal()
        head = nn.Dense(self.vocab_size, use_bias=False, kernel_init=initial, name="head")
        return head(nn.RMSNorm(name="head_norm")(x)).reshape(*tokens.shape, self.vocab_size)

    def _attention(self, x: jax.Array, layer: int) -> jax.Array:
        """Every position attends to every one of its sequence: (N L, width) -> the same."""
        qkv = nn.Dense(3 * self.width, use_bias=False, name=f"attention_in_{layer}")(x)
        q, k, v = jnp.moveaxis(qkv.reshape(-1, self.length, 3, self.num_heads, self.width // self.num_heads), 2, 0)
        scores = jnp.einsum("...qhd,...khd->...hqk", q, k) / jnp.sqrt(jnp.asarray(q.shape[-1], x.dtype))
        mixed = jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), v)
        return nn.Dense(self.width, use_bias=False, name=f"attention_out_{layer}")(mixed.reshape(x.shape))


def token_log_probs(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """log p of the token at each position: logits (..., L, V), tokens (..., L) of 1..V -> (..., L).

    A mask has no log-probability; 0 is returned for it.
    """
    log_probs = jax.nn.log_softmax(logits)
    return jnp.sum(jax.nn.one_hot(tokens - 1, logits.shape[-1], dtype=logits.dtype) * log_probs, axis=-1)
